"""What an attacker would send, family by family. ``tests/api/test_hostile_inputs.py`` sends it.

``python -m tests.api.hostile`` writes the table of it all, ``docs/hostile_inputs.md``.
"""
