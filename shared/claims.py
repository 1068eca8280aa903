"""Who has taken up a job: so that no job is worked on twice, and a dead worker's jobs are known."""

from shared.ledger import Command, Keys, Ledger


def claim(ledger: Ledger, job: str, incarnation: str) -> bool:
    """Take up an outstanding job. False when it was answered already, or somebody else has it."""
    commands: list[Command] = [("HEXISTS", Keys.jobs, job), ("HSETNX", Keys.claims, job, incarnation)]
    wanted, mine = ledger.do(commands)
    if not wanted and mine:
        ledger.do([("HDEL", Keys.claims, job)])
    return bool(wanted and mine)
