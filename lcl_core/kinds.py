"""The kinds of runs and what they compute on, for those who must not wait for their specs to load."""

KINDS = ("pretrain", "evaluate", "index", "validate", "convert", "match")

RESOURCES = ("cpu", "gpu")  # what a worker may offer, and a submission ask for
ANY = "accelerator"  # a GPU where there is one, else the processor: every worker can serve it
CLASSES = ("cpu", ANY, "gpu")  # what a run needs

# what a run of the kind needs unless its submission asks for one of RESOURCES: some only read and write
RESOURCE_CLASS = {kind: "cpu" if kind in ("validate", "convert") else ANY for kind in KINDS}
