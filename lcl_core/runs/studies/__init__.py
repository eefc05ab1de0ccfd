"""Studies in the database: made, driven on, looked at. What follows from what is decided in ``lcl_core.studies``."""
