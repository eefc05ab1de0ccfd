"""The match run: images assigned to sentences by an encoder, and the result converted and registered."""
