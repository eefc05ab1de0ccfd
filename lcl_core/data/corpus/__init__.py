"""Corpora: the interface, the JSON-lines form in a folder or zip, and opening any form."""
