"""The science of Latent Compression Learning, and the words that the whole house shares."""

__version__ = "0.1.0"
