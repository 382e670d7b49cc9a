"""Every code block of the documents is run, or compared with the code that it describes."""

import ast
import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.storage.queue.aio import QueueClient

from datasync.author.answers import Answers
from datasync.model.failure import Failure
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.lease import Lease
from datasync.model.run import Attempt, RunRecord
from datasync.model.state import FlowState
from datasync.run.receive import receive
from datasync.services import Services
from localdev.hosting import ROOT
from tests.docs.conftest import Copy, Lived
from tests.docs.pages import PAGES, Block, block, blocks, rows, spans, unread_blocks

QUERIES = ROOT / "docs" / "queries.md"


def each(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*languages), ids=str)


# --- which check a block has


def has_check(block: Block) -> bool:
    match block.language:
        case "python":  # a file that is written into the copy
            return bool(re.match(r'"""(?:flows/|tests/)', block.text))
        case "json":  # a list of answers, or a tenant document, an indexing policy or a cool-down
            content = json.loads(block.text)
            return isinstance(content, list) or bool({"flows", "indexingMode", "untilUtc"} & set(content))
        case _:
            return block.language in ("sh", "powershell", "kusto", "sql", "log", "text", "console", "output", "diff")


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_has_a_check(block: Block) -> None:
    """A new kind of block needs a test first."""
    assert has_check(block), f"{block}: no test checks a block of {block.language or 'no language'} like this one"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_has_a_fence_that_the_tests_read(page: Path) -> None:
    """A block with `~~~`, with an indent or in a quotation would be checked by no test."""
    assert unread_blocks(page) == []


@pytest.mark.parametrize(
    "text", ["~~~\ncode\n~~~\n", "    code\n", "\tcode\n", "> ```\n> code\n> ```\n", "```a b\n```\n"]
)
def test_other_forms_of_code_blocks_are_found(tmp_path: Path, text: str) -> None:
    """The test above refuses them, and accepts a block that it reads."""
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n```sh\n    make\n```\n\n{text}", encoding="utf-8")

    assert unread_blocks(page)[0] == text.partition("\n")[0]


def test_there_are_blocks_of_each_kind() -> None:
    """None of the tests below is without a case."""
    assert {block.language for block in blocks()} == {
        "python", "json", "sh", "powershell", "kusto", "sql", "log", "text", "console", "output", "diff",
    }  # fmt: skip


# --- Python


def flow_names() -> list[str]:
    return [name for each in blocks("python") for name in re.findall(r'^@flow\("([^"]+)"', each.text, re.MULTILINE)]


def test_documented_flows_load(copy: Copy) -> None:
    """The files are found, and register the flows under the documented names."""
    entries = [{"name": name, "enabled": True, "cron": "@hourly"} for name in flow_names()]
    tenant = {"id": "tenant-999", "tenantId": "tenant-999", "type": "Tenant", "flows": entries}
    validated = copy.python("-m", "datasync", "validate", "-", stdin=json.dumps(tenant))

    assert len(entries) >= 7
    assert (validated.stdout.splitlines()[0], validated.returncode) == ("1 document, 0 problems", 0)


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_documented_files_pass_make_check(copy: Copy, tool: str) -> None:
    """A reader can copy a flow or a test, or write one with `new`, and `make check` has no complaint."""
    checked = copy.python("-m", *tool.split(), *copy.documented)

    assert len(copy.documented) >= 9
    assert checked.returncode == 0, checked.stdout


@pytest.mark.usefixtures("storage", "database")  # which skip the test without Node
def test_documented_flows_run_and_documented_tests_pass(copy: Copy) -> None:
    """The tests of the documents and of new flows, and those of documented_flows.py and documented_recipes.py."""
    documented = [file for file in copy.documented if file.startswith("tests/")]
    ours = ["tests/flows/test_documented_flows.py", "tests/flows/test_documented_recipes.py"]
    ran = copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *documented, *ours)

    assert len(documented) >= 5
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^[45]\d passed", ran.stdout, re.MULTILINE), ran.stdout


def test_the_message_for_a_dead_run_is_a_job() -> None:
    """The app accepts it, and knows that the run is started again."""
    (body,) = [
        found
        for each in blocks("sh")
        for found in re.findall(r"JOB='(.*?)'", each.text, re.DOTALL)
        if "redrive" in found
    ]
    body = body.replace("<runId>", "r-1")
    job = receive(QueueMessage("m", body.encode(), 1, datetime(2026, 2, 1, tzinfo=UTC)))

    assert (job.run_id, job.redrive, job.trigger) == ("r-1", 1, "redrive")


# --- JSON


def test_a_list_of_answers_has_no_mistake(tmp_path: Path) -> None:
    """The answers can be used, and are those that the page describes."""
    file = tmp_path / "items.answers.json"
    file.write_text(block("json", '"method"').text, encoding="utf-8")
    answers = Answers(file)

    answered = [answers.to(httpx.Request("PATCH", "https://crm.example/v1/leads/7"))[0] for _ in range(3)]

    assert [each.status_code for each in answered] == [429, 200, 200]


@pytest.mark.parametrize("block", [each for each in blocks("json") if "flows" in json.loads(each.text)], ids=str)
def test_tenant_documents_have_no_problem(copy: Copy, block: Block) -> None:
    """`validate` accepts them, with the documented flows in place."""
    validated = copy.python("-m", "datasync", "validate", "-", stdin=block.text)

    assert (validated.stdout.splitlines()[0], validated.returncode) == ("1 document, 0 problems", 0)


async def test_the_documented_cooldown_closes_a_provider(lived: Lived) -> None:
    """The app reads a document that a person has created."""
    document = json.loads(block("json", "untilUtc").text)
    until = datetime.fromisoformat(document["untilUtc"])
    services = Services(lived.running.settings)
    try:
        await lived.world.runs.upsert_item({**document, "tenantId": "closed"})
        assert await services.runs.cooldown("closed", "mysource") == until
    finally:
        await lived.world.runs.delete_item(document["id"], partition_key="closed")
        await services.close()


def policy(container: str) -> dict[str, Any]:
    """Return the documented indexing policy of a container, which is saved as `<container>.json`."""
    page = ROOT / "docs" / "deploy.md"
    _, _, below = page.read_text(encoding="utf-8").partition(f"`{container}.json`")
    content: dict[str, Any] = json.loads(below.partition("```json\n")[2].partition("```")[0])
    return content


@pytest.mark.parametrize("container", ["tenants", "runs"])
async def test_the_documented_policies_are_those_of_the_containers(lived: Lived, container: str) -> None:
    """A container made with `az` and one made by localdev.provision have the same indexes."""

    def paths(policy: dict[str, Any]) -> tuple[set[str], set[str]]:
        included, excluded = ({path["path"] for path in policy[key]} for key in ("includedPaths", "excludedPaths"))
        return included, excluded - {'/"_etag"/?'}

    proxy: ContainerProxy = getattr(lived.world, container)
    properties = await proxy.read()

    assert paths(properties["indexingPolicy"]) == paths(policy(container))


# --- shells


@each("sh")
def test_shell_commands_parse(block: Block) -> None:
    """`sh -n` reads them without an error."""
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("there is no sh")
    parsed = subprocess.run(  # noqa: S603 - a shell that reads and runs nothing
        [shell, "-n"], input=block.text, capture_output=True, text=True, check=False
    )

    assert (parsed.stderr, parsed.returncode) == ("", 0)


def commands(text: str) -> Iterator[list[str]]:
    """Yield each `make …` and `python …` of a text, in words."""
    plain = re.sub(r"\s+#.*$", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    for line in re.split(r"\n|&&|;", plain):
        if found := re.match(r"\s*((?:make|python)\s.+)", line):
            yield shlex.split(found[1]) if found[1].startswith("make") else found[1].split()


def recipe(target: str, variables: set[str]) -> list[str]:
    """Return the commands of a target of the Makefile, with patterns of files expanded as a shell does."""
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lines, f"the Makefile has no target {target}"
    plain = re.sub(
        r"\$\(if \$\((\w+)\),([^)]*)\)",
        lambda found: found[2] if found[1] in variables else "",
        lines[1].replace("$(BIN)/", "").replace("$(ARGS)", ""),
    )
    return [" ".join(expanded(line.split())) for line in plain.splitlines()]


def expanded(words: list[str]) -> Iterator[str]:
    for word in words:
        files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(word)) if "*" in word else [word]
        yield from files


@pytest.mark.parametrize("cells", rows(ROOT / "docs" / "deploy.md", "Without make")[1:], ids=lambda cells: cells[0])
def test_commands_without_make_are_those_of_the_makefile(cells: list[str]) -> None:
    """Each row has the commands of its target, in their order."""
    ((target, *settings),) = (found.split() for found in re.findall(r"`make ([^`]+)`", cells[0]))

    variables = {setting.partition("=")[0] for setting in settings}
    assert re.findall(r"`(python [^`]*)`", cells[1]) == recipe(target, variables)


COMMANDS = sorted(
    {
        tuple(words)
        for text in [
            *(each.text for each in blocks("sh", "powershell")),
            *(span for page in PAGES for span in spans(page)),
        ]
        for words in commands(text)
    }
)


WRITTEN = {"tests/flows/test_shop_to_crm.py"}
"""Files that a command of a page writes. test_first_flow.py runs it."""


@cache
def help_of(*module: str) -> str:
    asked = subprocess.run(  # noqa: S603 - our own interpreter and modules
        [sys.executable, "-m", *module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout if asked.returncode == 0 else ""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_exist(words: tuple[str, ...]) -> None:
    """Make has the target; a module has the command and its options; a script is documented; a file exists."""
    match words:
        case ("make", *targets):
            defined = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(defined)
        case ("python", "-m", "datasync" | "localdev" as module, command, *arguments) if command not in ("…", "--help"):
            assert re.search(rf"^  {command}\b", help_of(module), re.MULTILINE), f"{module} has no command {command}"
            assert options(arguments) <= set(re.findall(r"--[a-z-]+", help_of(module, command)))
        case ("python", "-m", "localdev.host", *arguments):
            assert options(arguments) <= set(re.findall(r"--[a-z-]+", help_of("localdev.host")))
        case ("python", "-m", module, *arguments) if module.startswith(("benchmarks.", "localdev.", "tests.")):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
            assert options(arguments) <= set(re.findall(r"--[a-z-]+", help_of(module)))
        case ("python", "-m", "pytest" | "pip", *arguments):
            for name in arguments:
                assert not name.endswith((".py", ".txt")) or (ROOT / name).is_file() or name in WRITTEN
        case ("python", "-m", "coverage" | "ruff" | "mypy", *_):
            pass  # compared with the Makefile
        case ("python", "-m", "datasync" | "localdev", *_) | ("python", "-" | "…", *_):
            pass  # names the program, without a command; or reads a block that a test runs
        case _:
            pytest.fail("no check for this command")


def options(arguments: list[str]) -> set[str]:
    return {argument for argument in arguments if argument.startswith("--")}


async def test_provisioning_with_core_tools_makes_everything_that_the_check_asks_for(
    lived: Lived, tmp_path: Path
) -> None:
    """`provision` reads a local.settings.json; then `check` prints `ok` for each service."""
    values = {**lived.running.environ, "COSMOS_DATABASE": "by-hand", "QUEUE_NAME": "by-hand"}
    local = tmp_path / "local.settings.json"
    local.write_text(json.dumps({"IsEncrypted": False, "Values": values}), encoding="utf-8")
    try:
        made = lived.app.python("-m", "localdev", "provision", str(local))
        assert made.returncode == 0, made.stderr
        # In a thread, because the Key Vault answers from this event loop. The environment wins over the file, and the
        # environment of the tests trusts the certificate of another Key Vault.
        checked = await asyncio.to_thread(
            partial(lived.app.python, SSL_CERT_FILE=values["SSL_CERT_FILE"]),
            *("-m", "datasync", "check", "--settings", str(local)),
        )
        answers = [re.split(r" {3,}", line) for line in checked.stdout.splitlines()]
    finally:
        await remove("by-hand", lived)

    assert [answer for _, answer in answers] == ["ok"] * 5, checked.stdout + checked.stderr


async def remove(name: str, lived: Lived) -> None:
    async with CosmosClient.from_connection_string(lived.running.database.connection_string) as cosmos:
        await cosmos.delete_database(name)
    for queue in (name, f"{name}-poison"):
        async with QueueClient.from_connection_string(lived.running.storage.connection_string, queue) as client:
            await client.delete_queue()


# --- log lines


SAMPLES = [
    pytest.param(line, id=f"{block} {line[:60]}")
    for block in blocks("log")
    if not block.text.startswith("correct these app settings")
    for line in block.text.splitlines()
]


def head(sample: str) -> str:
    """Return a pattern of the text before the fields: subjects and numbers vary, `…` stands for any text."""
    text = re.sub(r"^([A-Z_]{4,}) \S+/\S+", r"\1 …", re.split(r" \w+=", sample)[0])
    text = re.sub(r"(?<=^WAITING … for )\d+(?=s: )", "…", text)
    parts = [re.sub(r"(?<![\w.])\d+\.\d+(?=s)", "0.0", part) for part in text.split("…")]
    return ".+".join(re.escape(part).replace(re.escape("0.0"), r"\d+\.\d+") for part in parts)


def fields(line: str) -> list[str]:
    return re.findall(r" (\w+)=", line)


@pytest.mark.parametrize("sample", SAMPLES)
def test_log_samples_are_lines_that_the_app_prints(lived: Lived, sample: str) -> None:
    """The words are those of a line in the log. The fields have the same names, in the same order."""
    alike = [line for line in lived.lines if re.match(head(sample), line)]
    assert alike, "\n".join([head(sample), *(line for line in lived.lines if line[:4] == sample[:4])])
    printed = {name for line in alike for name in fields(line)}
    assert set(fields(sample)) <= printed
    for line in alike:
        common = [name for name in fields(line) if name in fields(sample)]
        assert common == [name for name in fields(sample) if name in common]


def test_the_message_about_wrong_settings_is_the_one_that_is_printed(copy: Copy) -> None:
    """`check` prints it for the values that the sample shows."""
    sample = block("log", "correct these app settings").text
    right = {"AzureWebJobsStorage": "UseDevelopmentStorage=true", "COSMOS_ENDPOINT": "https://acme.example/"}
    wrong = dict(re.findall(r"^  (\w+): .*, got '(.*)'$", sample, re.MULTILINE))
    printed = copy.python("-m", "datasync", "check", **right, **wrong)

    assert len(wrong) == 2
    assert printed.stderr == f"Error: {sample}"


def test_the_table_of_log_lines_names_words_of_the_code() -> None:
    """Each first word of a line, such as `DONE`, is in the source of the app."""
    words = {word for cells in rows(QUERIES, "Log lines") for word in re.findall(r"`([A-Z_]{4,})\b", cells[0])}
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "datasync").rglob("*.py"))

    assert len(words) >= 10
    assert {word for word in words if not re.search(rf'\b{word}\b|"{word.lower()}"', source)} == set()


# --- log queries


LOG_QUERIES = [
    *(pytest.param(each.text, id=str(each)) for each in blocks("kusto")),
    *(
        pytest.param(query, id=f"{page.name} {query[:60]}")
        for page in PAGES
        for query in [
            *(span for span in spans(page) if re.match(r"traces \| where", span)),
            *(
                found
                for each in blocks("sh")
                if each.page == page
                for found in re.findall(r"='(traces .*?)'", each.text)
            ),
        ]
    ),
]


@pytest.mark.parametrize("query", LOG_QUERIES)
def test_log_queries_find_lines_that_the_app_prints(lived: Lived, query: str) -> None:
    """Each text that a query looks for begins a line of the log, and each pattern matches one, with its groups."""
    expected = len(re.findall(r"\b(?:startswith|contains|regex|extract|parse)\b", query))
    found = [
        *(any(text in line for line in lived.lines) for text in re.findall(r'contains "(.*?)"', query)),
        *(any(line.startswith(text) for line in known(lived)) for text in re.findall(r'startswith "(.*?)"', query)),
        *(lived.said(pattern) for pattern in re.findall(r'matches regex @"(.*?)"', query)),
        *(extracts(lived, *each) for each in re.findall(r'extract\(@"(.*?)", (\d), message\)', query)),
        *(
            lived.said(".*".join(re.findall(r'"(.*?)"', each)))
            for each in re.findall(r"parse kind=relaxed message with (.*?)\n\|", query, re.DOTALL)
        ),
    ]

    assert found == [True] * expected


def known(lived: Lived) -> list[str]:
    """Return the lines of the log, and the beginnings of those that a healthy run does not write."""
    table = [re.findall(r"`([^`]*)`", cells[0]) for cells in rows(QUERIES, "Log lines")]
    return [*lived.lines, *(line for lines in table for line in lines)]


def extracts(lived: Lived, pattern: str, group: str) -> bool:
    return any(found[int(group)] for line in lived.lines if (found := re.search(pattern, line)))


def test_the_documented_fields_of_a_tick_are_all_that_it_has(lived: Lived) -> None:
    """The query for ticks and the table have the fields of the line, in their order."""
    (query,) = [each.text for each in blocks("kusto") if "| parse " in each.text]
    _, _, below = QUERIES.read_text(encoding="utf-8").partition("| Field of `TICK` |")
    (tick,) = [line for line in lived.lines if line.startswith("TICK tenants=")]

    assert re.findall(r"(\w+):(?:long|double)", query) == fields(tick)
    assert re.findall(r"^\| `(\w+)` \|", below.partition("\n\n")[0], re.MULTILINE) == fields(tick)


# --- Cosmos DB queries


SHAPES = (RunRecord, Attempt, Failure, FlowState, Lease, JobMessage)
LEFT_OUT = {"error", "timezone", "redrive", "failures", "interruptions", "lastSuccessUtc"}
"""Fields that no result need have, as a field with its default value is not stored."""


@each("sql")
async def test_queries_find_what_a_tick_and_its_runs_left(lived: Lived, block: Block) -> None:
    """Each query returns something, and each selected field is in it."""
    container = lived.world.tenants if "'Tenant'" in block.text else lived.world.runs
    outcome = "continued" if "c.part" in block.text else "dead"
    ended = [dict(item) async for item in lived.world.runs.query_items("SELECT * FROM c WHERE NOT IS_DEFINED(c.part)")]
    run = next(item for item in ended if item.get("outcome") == outcome)
    text = block.text.replace("<runId>", run["runId"])
    text = re.sub(r">= '\d{4}-\S+Z'", ">= '2000-01-01T00:00:00Z'", text)
    text = re.sub(r"< '\d{4}-\S+Z'", "< '2100-01-01T00:00:00Z'", text)
    found: list[Any] = [item async for item in container.query_items(text)]

    assert found
    assert found != [0]
    selected = set(selected_names(block.text))
    assert {name for name in selected if not any(name in item for item in found)} <= LEFT_OUT


def selected_names(query: str) -> Iterator[str]:
    """Yield the names of the values in the result of a query: `message` for `c.error.message`, or the name after AS."""
    for path, name in re.findall(r'\b[acf]((?:\.\w+|\["\w+"\])+)\)?(?: AS (\w+))?', query.partition("FROM")[0]):
        yield name or re.findall(r"\w+", path)[-1]


@each("sql")
def test_queries_on_runs_name_fields_that_the_app_stores(block: Block) -> None:
    """A field that no document has would give an empty column."""
    if "'Run'" not in block.text and "'FlowState'" not in block.text:
        return
    stored = {name for shape in SHAPES for name in shape.__struct_encode_fields__}
    named = {
        name for path in re.findall(r'\b[ac]((?:\.\w+|\["\w+"\])+)', block.text) for name in re.findall(r"\w+", path)
    }

    assert named - {"type"} <= stored


@each("sql")
def test_queries_on_runs_use_indexed_paths(block: Block) -> None:
    """Cosmos DB refuses ORDER BY without an index, and a filter without one reads every document."""
    container = "tenants" if "'Tenant'" in block.text else "runs"
    indexed = {path["path"] for path in policy(container)["includedPaths"]}
    used = set(re.findall(r"\bc\.(\w+)", block.text.partition("WHERE")[2]))

    assert {f"/{name}/?" for name in used} <= indexed


# --- outputs of commands


@pytest.mark.parametrize("block", [each for each in blocks("output") if each.page.name != "first-flow.md"], ids=str)
def test_shown_lines_have_words_of_the_code(block: Block) -> None:
    """Each line has a text of the code, except for data in JSON. Those of the first flow are compared with its run."""
    code = [
        ast.parse(path.read_bytes()) for folder in ("datasync", "localdev") for path in (ROOT / folder).rglob("*.py")
    ]
    texts = {
        node.value.strip()
        for tree in code
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.strip()) >= len("started")
    }
    lines = [line for line in block.text.splitlines() if not line.strip().startswith(("{", "["))]

    assert lines
    assert [line for line in lines if not any(text in line for text in texts)] == []


# --- diagrams


@each("text")
def test_diagrams_name_files_functions_and_resources_that_exist(block: Block) -> None:
    """Files are in the repository, functions in function_app.py, containers and queues in the default settings."""
    values = json.loads((ROOT / "local.settings.json.example").read_text(encoding="utf-8"))["Values"].values()
    entry = (ROOT / "function_app.py").read_text(encoding="utf-8")
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "datasync").rglob("*.py")} | {"function_app.py"}
    named = re.findall(r"[\w/]+\.py\b", block.text)
    functions = re.findall(r"(\w+) \((timer|queue)\)", block.text)
    resources = re.findall(r"(?:Cosmos DB|queue): ([\w-]+)", block.text)

    assert named or (functions and resources)
    assert [name for name in named if not any(file == name or file.endswith(f"/{name}") for file in files)] == []
    for name, trigger in functions:
        assert re.search(rf"{trigger}_trigger\(.*\nasync def {name}\(", entry)
    assert set(resources) <= set(values)
