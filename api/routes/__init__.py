"""One file a resource. A handler declares its dependencies, calls one function, and returns a model."""
