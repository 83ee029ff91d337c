"""Where the work of stages is done: in this process, unless an executor spreads it over others."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

Kind = Literal["train", "attack", "measure", "export"]
"""What a task is for, by which executors give it resources. `export` writes to folders of the user,
so it is done in the process that was asked to."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One unit of work, which may be done again without harm.

    Attributes:
        name: for messages.
        kind: what it is for.
        work: does it all, but for those parts that are done already.
        parts: pieces of the work that can be done before it, in any order and place.
    """

    name: str
    kind: Kind
    work: Callable[[], None]
    parts: Sequence[Callable[[], None]] = ()


class Pending(Protocol):
    """A task that is to be done."""

    def wait(self) -> None:
        """Returns when it is done; raises what its work raised."""


class Executor(Protocol):
    """Does tasks. Everything that a task needs is there when those before it are done.

    Attributes:
        at_once: how many tasks it does at a time.
    """

    at_once: float

    def submit(
        self, task: Task, after: Sequence[Pending], when_done: Callable[[], None]
    ) -> Pending | None:
        """Takes a task.

        Args:
            task: to be done.
            after: tasks that this executor took earlier, and that must be done before.
            when_done: called in this process, once the task is done.

        Returns:
            The task to wait for; None if it is done.
        """


class Here:
    """Does every task in this process, as soon as it is submitted."""

    at_once = 1.0

    def submit(
        self, task: Task, after: Sequence[Pending], when_done: Callable[[], None]
    ) -> Pending | None:
        """Does the task."""
        for pending in after:
            pending.wait()
        task.work()
        when_done()
        return None
