"""The page: a Gradio application that talks to the service through ``api.client``."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
