"""Request and response models, one file a resource. Run specs are ``lcl_core.specs``."""
