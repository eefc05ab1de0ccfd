"""A trial can be held again: what is done in it is a function of its seed."""

from __future__ import annotations

from tests.chaos.fault_plan import PROCESS_FAULTS, plan_faults
from tests.chaos.toy_training import expected_curve
from tests.chaos.workload import Role, plan_runs


def test_the_same_seed_gives_the_same_trial() -> None:
    assert (
        plan_faults(5, 50, PROCESS_FAULTS) == plan_faults(5, 50, PROCESS_FAULTS) != plan_faults(6, 50, PROCESS_FAULTS)
    )
    assert plan_runs(5, 20, real=2) == plan_runs(5, 20, real=2) != plan_runs(6, 20, real=2)


def test_no_kind_is_left_out() -> None:
    assert {fault.kind for fault in plan_faults(0, len(PROCESS_FAULTS), PROCESS_FAULTS)} == set(PROCESS_FAULTS)
    assert {planned.role for planned in plan_runs(0, 8, real=1)} == set(Role)


def test_a_frozen_worker_loses_its_lease() -> None:
    assert all(fault.away > 1 for fault in plan_faults(0, 100, PROCESS_FAULTS) if fault.kind == "worker_frozen")


def test_orders_are_reported_apart_and_come_after_earlier_ones() -> None:
    planned = plan_runs(0, 60)
    assert len({planned.key for planned in planned}) == len({planned.spec["seed"] for planned in planned}) == 60
    followers = [planned for planned in planned if planned.after is not None]
    assert followers
    assert all(planned.after < planned.number for planned in followers)


def test_a_curve_is_known_by_its_seed_and_length() -> None:
    losses, digest = expected_curve(1, 5)
    assert expected_curve(1, 5) == (losses, digest)
    assert expected_curve(2, 5)[0] != losses == expected_curve(1, 6)[0][:5]
    assert expected_curve(1, 6)[1] != digest
    assert len(set(losses)) == 5
