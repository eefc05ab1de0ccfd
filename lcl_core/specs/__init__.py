"""The one vocabulary of REST, command line, workers and page: what a job is to do. Knows no torch.

Every field carries its meaning, unit and bounds; forms and documentation are made from the JSON schema.
"""
