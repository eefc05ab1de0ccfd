"""Where the processes of a job run. ``local`` starts them on this machine."""
