"""Registry of job kinds and of the resources that a job may need. Imports no spec, so it loads at once."""

JOB_KINDS = ("pretrain", "evaluate", "index", "validate", "convert", "match")

RESOURCES = ("cpu", "gpu")  # what a worker may offer, and a submission ask for
ANY_DEVICE = "accelerator"  # a GPU where there is one, else the processor: every worker can serve it
RESOURCE_CLASSES = ("cpu", ANY_DEVICE, "gpu")  # what a run needs

# what a run of the kind needs unless its submission asks for one of RESOURCES: some only read and write
DEFAULT_RESOURCE = {kind: "cpu" if kind in ("validate", "convert") else ANY_DEVICE for kind in JOB_KINDS}
