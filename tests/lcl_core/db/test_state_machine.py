"""Anything in any order: whatever people, workers and reapers do to a handful of runs, the laws hold."""

from datetime import datetime

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from lcl_core.common.errors import UserError
from lcl_core.db import complete_run, leases, states, submit
from lcl_core.db import queue as db_queue
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Predecessor, Run
from lcl_core.db.states import ALLOWED, FINISHED, LEASED, State

EXAMPLES, STEPS = 20, 40
VERBS = {
    "cancel": db_runs.cancel_run,
    "pause": db_runs.pause_run,
    "unpause": db_runs.unpause_run,
    "resume": db_runs.resume_run,
    "retry": db_runs.retry_run,
}
MAY = {
    "cancel": {"waiting", "queued", "running", "pausing", "paused"},
    "pause": {"waiting", "queued", "running"},
    "unpause": {"paused"},
    "resume": {"failed", "cancelled"},
    "retry": {"failed", "cancelled"},
}
MOST = 4
WHICH = st.integers(0, MOST - 1)


class House(RuleBasedStateMachine):
    """Up to four runs, and claims of which some are stale by now."""

    def __init__(self, database, home):
        super().__init__()
        self.database = database
        self.home = home
        self.claims = []
        self.runs = []
        self.before = {}
        with database.session() as session:
            session.execute(delete(Run))

    @initialize()
    def begin(self):
        """A chain of three, or little would ever wait."""
        for after in ([], [0], [0, 1]):
            self.submit(after, 0, 2)

    @rule(after=st.lists(WHICH, max_size=2), priority=st.integers(-1, 1), attempts=st.integers(1, 2))
    def submit(self, after, priority, attempts):
        if len(self.runs) == MOST:
            return
        wanted = [self.runs[at] for at in after if at < len(self.runs)]
        facts = {"priority": priority, "max_attempts": attempts, "after": wanted}
        try:
            with self.database.session() as session:
                self.runs.append(submit.submit(session, "index", {"encoder": "e", "collection": "c"}, **facts).id)
        except UserError:
            assert any(self.before[run_id] in ("failed", "cancelled") for run_id in wanted)

    @rule(which=WHICH)
    def cancel(self, which):
        self._ask(which, "cancel")

    @rule(which=WHICH)
    def pause(self, which):
        self._ask(which, "pause")

    @rule(which=WHICH)
    def unpause(self, which):
        self._ask(which, "unpause")

    @rule(which=WHICH, verb=st.sampled_from(["resume", "retry"]))
    def queue_again(self, which, verb):
        self._ask(which, verb)

    @rule(lease=st.sampled_from([-1.0, 30.0]))
    def claim(self, lease):
        with self.database.session() as session:
            queue = select(Run).where(Run.state == "queued").order_by(Run.priority.desc(), Run.queued_at, Run.id)
            first = session.scalars(queue).first()
            expected = None if first is None else first.id
        with self.database.session() as session:
            claim = db_queue.claim_next(session, f"w-{len(self.claims)}", lease)
        assert (None if claim is None else claim.run_id) == expected
        if claim is not None:
            assert all(self.before[other] == "succeeded" for other in self._after(claim.run_id))
            self.claims.append(claim)

    @rule(which=WHICH, uses_attempt=st.booleans())
    def hand_back(self, which, uses_attempt):
        self._as_worker(which, lambda s, claim: leases.release_lease(s, claim, uses_attempt=uses_attempt))

    @rule(which=WHICH)
    def renew(self, which):
        self._as_worker(which, lambda session, claim: leases.renew_lease(session, claim, 30.0))

    @rule(which=WHICH, good=st.booleans())
    def settle(self, which, good):
        if not self.claims:
            return
        claim = self.claims[which % len(self.claims)]
        outcome = complete_run.RunFailed({"code": "crash", "message": "m"})
        if good:  # without a collection to register: what is examined here is the state
            self._as_worker(which, _succeed)
            return
        holds = self._holds(claim)
        try:
            complete_run.complete_run(self.database, claim, outcome, self.home, self.home, 1.0)
        except leases.StaleLease:
            assert not holds
        else:
            assert holds

    @rule()
    def reap(self):
        with self.database.session() as session:
            leases.expire_leases(session)

    @rule()
    def release(self):
        with self.database.session() as session:
            submit.release_dependents(session)
        with self.database.reading() as session:
            assert not submit.has_releasable(session)

    @invariant()
    def laws(self):
        with self.database.reading() as session:
            runs = {run.id: run for run in session.scalars(select(Run))}
        for run_id, run in runs.items():
            state = State(run.state)
            assert _reachable(self.before.get(run_id), state), f"{self.before.get(run_id)} became {state}"
            assert (run.lease_token is not None) is (state in LEASED)
            assert (run.finished_at is not None) is (state in FINISHED)
            assert isinstance(run.ready_at, datetime)
            assert run.attempt >= 0
            if state is State.QUEUED or state in LEASED:
                assert all(runs[other].state == "succeeded" for other in run.after), "it went before its time"
            if state is State.FAILED:
                assert run.reason is not None
        assert len({run.lease_token for run in runs.values() if run.lease_token}) == sum(
            run.state in LEASED for run in runs.values()
        )
        self.before = {run_id: run.state for run_id, run in runs.items()}

    def _ask(self, which, verb):
        """A verb does its work if and only if the state allows it."""
        run_id = self.runs[which % len(self.runs)]
        state = self.before[run_id]
        try:
            with self.database.session() as session:
                VERBS[verb](session, run_id)
        except states.ForbiddenTransition:
            assert state not in MAY[verb], f"{verb} of a run that is {state}"
        else:
            assert state in MAY[verb], f"{verb} of a run that is {state}"

    def _as_worker(self, which, write):
        """A write succeeds if and only if the claim still holds its run."""
        if not self.claims:
            return
        claim = self.claims[which % len(self.claims)]
        holds = self._holds(claim)
        try:
            with self.database.session() as session:
                write(session, claim)
        except leases.StaleLease:
            assert not holds
        else:
            assert holds

    def _holds(self, claim):
        with self.database.reading() as session:
            run = session.get(Run, claim.run_id)
            return run is not None and run.lease_token == claim.token

    def _after(self, run_id):
        with self.database.reading() as session:
            return list(session.scalars(select(Predecessor.after_id).where(Predecessor.run_id == run_id)))


def _succeed(session, claim):
    from lcl_core.db.leases import NO_LEASE, lock_with_lease, transition

    run = lock_with_lease(session, claim)
    transition(run, State.SUCCEEDED, result={}, finished_at=run.ready_at, **NO_LEASE)


def _reachable(source, target):
    """No step of the test takes a run further than one of its own."""
    if source is None:
        return target in (State.QUEUED, State.WAITING)
    return target == source or target in ALLOWED[State(source)]


def test_whatever_happens_the_laws_hold(database, tmp_path):
    rules = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),  # a failure is told at once: making it small takes minutes
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: House(database, tmp_path), settings=rules)
