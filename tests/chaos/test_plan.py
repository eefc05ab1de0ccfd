"""A trial can be held again: what is done in it is a function of its seed."""

from __future__ import annotations

from tests.chaos.curve import curve
from tests.chaos.orders import Role, orders
from tests.chaos.plan import PROCESSES, plan


def test_the_same_seed_gives_the_same_trial() -> None:
    assert plan(5, 50, PROCESSES) == plan(5, 50, PROCESSES) != plan(6, 50, PROCESSES)
    assert orders(5, 20, real=2) == orders(5, 20, real=2) != orders(6, 20, real=2)


def test_no_kind_is_left_out() -> None:
    assert {fault.kind for fault in plan(0, len(PROCESSES), PROCESSES)} == set(PROCESSES)
    assert {order.role for order in orders(0, 8, real=1)} == set(Role)


def test_a_frozen_worker_loses_its_lease() -> None:
    assert all(fault.away > 1 for fault in plan(0, 100, PROCESSES) if fault.kind == "worker_frozen")


def test_orders_are_told_apart_and_come_after_earlier_ones() -> None:
    asked = orders(0, 60)
    assert len({order.key for order in asked}) == len({order.spec["seed"] for order in asked}) == 60
    followers = [order for order in asked if order.after is not None]
    assert followers
    assert all(order.after < order.number for order in followers)


def test_a_curve_is_known_by_its_seed_and_length() -> None:
    losses, digest = curve(1, 5)
    assert curve(1, 5) == (losses, digest)
    assert curve(2, 5)[0] != losses == curve(1, 6)[0][:5]
    assert curve(1, 6)[1] != digest
    assert len(set(losses)) == 5
