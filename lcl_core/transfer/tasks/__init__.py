"""What an examination can ask, a file a task."""

from lcl_core.transfer.tasks.base import Places, Room, Task
from lcl_core.transfer.tasks.registry import TASKS

__all__ = ["TASKS", "Places", "Room", "Task"]
