"""Where the processes of a job run. ``base`` has the protocol and the registry; every other module is one executor."""
