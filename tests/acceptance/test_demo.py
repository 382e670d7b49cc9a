"""`make demo`, the first command of a new developer."""

import asyncio
import sys

from localdev.hosting import ROOT


async def test_the_demo_runs_every_flow_and_shows_every_problem() -> None:
    """The table has the outcome of each run. The problems and the dead run are listed below the table."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localdev", "demo"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    lines = output.decode().splitlines()

    assert process.returncode == 0, output.decode()
    outcomes = [cells[3].strip() for line in lines if len(cells := line.split("│")) > 3]
    assert sorted(outcomes) == ["dead", *["succeeded"] * 10]
    assert any("TICK tenants=7 due=11 enqueued=11 advanced=11 conflicts=0 problems=2" in line for line in lines)
    problems = [line.split(": ")[1] for line in lines if line.startswith("• document: ")]
    assert problems == ["delta-decks/weather flows[0].cron", "echo-exteriors/home-depot→salesforce flows[1].name"]
    assert [line.split(": ")[1] for line in lines if line.startswith("• run: ")] == [
        "fargo-floors/home-depot→builder-prime"
    ]
    (dead,) = [cells for line in lines if len(cells := line.split("│")) > 3 and cells[3].strip() == "dead"]
    assert dead[4].strip() == "5", "attempts"
    assert not any(line.startswith("• queue: ") for line in lines), "a dead run leaves no message in the poison queue"
