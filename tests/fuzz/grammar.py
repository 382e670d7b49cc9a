"""An own grammar of hostile values: texts, numbers, times, cron expressions, JSON, and mutations of valid documents.

Each function takes the source of its choices, so that a seed gives the same values again.
"""

import json
from base64 import b64encode
from copy import deepcopy
from random import Random
from typing import Any
from zoneinfo import available_timezones

ZONES = sorted(available_timezones())

_TEXTS = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "a",
        "tenant",
        "Tenant",
        "TENANT",
        "null",
        "true",
        "NaN",
        "0",
        "..",
        ".",
        "/",
        "@fleet",
        "@",
    ),
    *("\0", "a\0b", "\x1b[31mred", "\x7f", "\x85", "\u2028", "a\r\nTICK tenants=0", "\x08\x08"),
    *("\ud800", "a\udfffb", "\udc80" * 300, "\ud83d", "\U0001f600"),
    *("\u202egpj.exe", "\u2066a\u2069", "a\u200bb", "\ufeff", "\u00ad", "İ", "ß", "ﬁ", "１２", "٣", "²", "e\u0301"),
    *(
        " - at `$`",
        "`$`",
        "Expected `str` - at `$.flows[0]`",
        "$.",
        "$[0]",
        "{0}",
        "{}",
        "%s",
        "%(x)s",
        "%",
        "\\",
        "'",
        '"',
    ),
    *("a" * 201, "b" * 256, "c" * 5_000, "d" * 70_000, "a b" * 3_000, "`" * 999, "\\" * 999, "é" * 999, "(" * 999),
    *("tenants--t--a--b", "shared--a", "-", "--", "a--b", "A" * 128, "a/b?c#d", "<placeholder>", "a=b;c=d", "https://"),
    *("https://user:word@host/a?key=b", "https://[::1", "http://\ud800/", "[1]", '{"a": 1}', "[" * 500, "1e400", "-0"),
)
_NUMBERS = (
    *(
        0,
        1,
        -1,
        2,
        5,
        59,
        60,
        61,
        100,
        255,
        10_000,
        86_400,
        10**6,
        10**6 + 1,
        2**31,
        2**32,
        2**53,
        2**53 + 1,
        -(2**53) - 1,
    ),
    *(
        2**63 - 1,
        2**63,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**18,
        10**60,
        -(10**60),
        10**400,
        10**4_000,
        1_756_000_000_000,
    ),
    *(0.0, -0.0, 0.5, 1.0, 1e15, 1e16, 1e60, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan")),
)
_ALPHABETS = (
    *("abcXYZ019-_.", " \t\n\r\x0b\x0c", "\0\x01\x1b\x7f\x9b", "\ud800\udbff\udc00\udfff"),
    *("\u200b\u200e\u202a\u202e\u2066\ufeff", "äßİıſK", "漢字かな", "\U0001f600\U000e0001"),
    *("{}[]\":,\\/'`$%<>&;=#?@!", "0123456789+-.:TZeE"),
)


def text(choices: Random) -> str:
    """Return a text that somebody forgot to expect."""
    if choices.random() < 0.6:
        return choices.choice(_TEXTS)
    letters = choices.choice(_ALPHABETS) + choices.choice(_ALPHABETS)
    return "".join(choices.choices(letters, k=choices.choice((1, 2, 3, 5, 8, 13, 40, 210, 700))))


def number(choices: Random) -> float:
    """Return a number: whole or not, small or with thousands of digits, infinite, or NaN."""
    if choices.random() < 0.7:
        return choices.choice(_NUMBERS)
    return choices.choice((choices.randint(-(10**9), 10**9), choices.uniform(-1e9, 1e9), choices.getrandbits(200)))


def value(choices: Random, levels: int = 3) -> Any:
    """Return a JSON value, perhaps with NaN, half a pair, or a hundred levels."""
    kind = choices.randrange(9 if levels else 5)
    if kind < 3:
        return choices.choice((None, True, False, number(choices)))
    if kind < 5:
        return text(choices)
    if kind < 7:
        return [value(choices, levels - 1) for _ in range(choices.choice((0, 1, 1, 2, 3, 20)))]
    if kind < 8:
        return {text(choices): value(choices, levels - 1) for _ in range(choices.choice((0, 1, 1, 2, 3, 20)))}
    return nested(choices, choices.choice((10, 60, 100, 120)))


def nested(choices: Random, levels: int) -> Any:
    """Return lists in lists, or objects in objects."""
    inner: Any = None
    for _ in range(levels):
        inner = choices.choice(([inner], {"a": inner}))
    return inner


def time(choices: Random) -> str:
    """Return a text like a time: correct, at the ends of the calendar, in another notation, or wrong."""
    year = choices.choice(
        ("0001", "0000", "1712", "1970", "2024", "2025", "2025", "2206", "9999", "10000", "２０２５", "2O25")
    )
    month, day = (
        choices.choice(("01", "02", "08", "12", "13", "00", "W34")),
        choices.choice(("01", "23", "29", "30", "31", "32")),
    )
    clock = choices.choice(
        ("00:00:00", "23:59:59", "24:00:00", "02:30:00", "12:00", "12", "25:00:00", "23:59:60", "120000", "1:2:3")
    )
    fraction = choices.choice(("", "", ".5", ".123456", ".1234567890123", ",5"))
    offset = choices.choice(
        ("Z", "Z", "z", "", "+00:00", "-00:00", "+14:00", "-23:59", "+24:00", "+01:23:45", " UTC", "[UTC]")
    )
    made = f"{year}-{month}-{day}{choices.choice('TTTt _')}{clock}{fraction}{offset}"
    return noisy(choices, made) if choices.random() < 0.2 else made


def cron(choices: Random) -> str:
    """Return a cron expression, mostly a correct one."""
    if choices.random() < 0.05:
        return choices.choice(("@hourly", "@DAILY", "@reboot", "@", "@every_second", "@yearly"))
    kinds = ((0, 59, ()), (0, 59, ()), (0, 23, ()), (1, 31, _DAYS), (1, 12, ("JAN", "dec")), (0, 7, _WEEKDAYS))
    fields = [_field(choices, *kind) for kind in kinds]
    if choices.random() < 0.1:
        fields = fields[: choices.randrange(6)] or fields * 2
    made = choices.choice((" ", " ", " ", "\t", "  ", "\u00a0")).join(fields)
    return noisy(choices, made) if choices.random() < 0.3 else made


_DAYS = ("L", "LW", "15W", "L-3", "L-30W", "L-31", "31W", "?")
_WEEKDAYS = ("MON", "5L", "sun#5", "FRI#1", "6#6", "?", "7")


def _field(choices: Random, low: int, high: int, special: tuple[str, ...]) -> str:
    if choices.random() < 0.4:
        return "*"
    if special and choices.random() < 0.5:
        return choices.choice(special)

    def item() -> str:
        first, last = choices.randint(low, high + (choices.random() < 0.05)), choices.randint(low, high)
        step = choices.choice((1, 2, 7, high, high + 1, 0))
        return choices.choice((f"{first}", f"{first}-{last}", f"{first}-{last}/{step}", f"{first}/{step}", f"*/{step}"))

    return ",".join(item() for _ in range(choices.choice((1, 1, 1, 2, 5, 60))))


def noisy(choices: Random, correct: str) -> str:
    """Return a text with some characters changed."""
    letters = list(correct)
    for _ in range(choices.choice((1, 1, 2, 5))):
        at = choices.randrange(len(letters) + 1)
        letters[at : at + choices.randrange(3)] = text(choices)[: choices.choice((1, 1, 3, 300))]
    return "".join(letters)


def like(choices: Random, old: Any) -> Any:
    """Return a value that could stand where another one stood."""
    if choices.random() < 0.4:
        return value(choices)
    match old:
        case str():
            return _like_text(choices, old)
        case bool():
            likely: tuple[Any, ...] = ("true", "false", 0, 1, None)
        case int() | float():
            likely = (number(choices), str(old), [old])
        case list():
            likely = (old * 2, old * 40, [old], [*old, value(choices)], dict.fromkeys("ab", old))
        case dict():
            likely = ([old], json.dumps(old), {**old, text(choices): value(choices)}, list(old.items()))
        case _:
            likely = (value(choices),)
    return choices.choice(likely)


def _like_text(choices: Random, old: str) -> str:
    if old[:4].isdigit():
        return time(choices)
    if " * " in old:
        return cron(choices)
    if "/" in old:
        return choices.choice((choices.choice(ZONES), old.lower(), "tenant", f"../{old}", f"/{old}", text(choices)))
    return choices.choice((text(choices), old.upper(), f" {old}", noisy(choices, old), old * 50))


def mutated(choices: Random, document: Any) -> Any:
    """Return a copy of a valid JSON value with one to six faults."""
    changed = [deepcopy(document)]  # in a list, so that the whole can be replaced, too
    for _ in range(choices.choice((1, 1, 1, 2, 3, 6))):
        holder, key = choices.choice(_places(changed))
        match choices.randrange(8):
            case 0:
                del holder[key]
                changed = changed or [None]
            case 1 if isinstance(holder, dict):
                holder[misspelt(choices, key)] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                holder[misspelt(choices, key)] = deepcopy(holder[key])
            case 3:
                other, place = choices.choice(_places(changed))
                if not isinstance(holder[key], dict | list):  # a value within itself is not JSON
                    other[place] = holder[key]
            case _:
                holder[key] = like(choices, holder[key])
    return changed[0]


def misspelt(choices: Random, name: str) -> str:
    """Return a name like another."""
    at = choices.randrange(len(name) or 1)
    wrong = (name.lower(), name.upper(), name.title(), f"{name}s", name[:at] + name[at + 1 :], f" {name}", f"_{name}")
    return choices.choice((*wrong, "".join(reversed(name)), text(choices)))


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Return the holder and the key of each part of a JSON value, up to a thousand."""
    places, pending = list[tuple[Any, Any]](), [root]
    while pending and len(places) < 1_000:
        holder = pending.pop()
        for key, part in [*holder.items()] if isinstance(holder, dict) else [*enumerate(holder)]:
            places.append((holder, key))
            if isinstance(part, dict | list) and part:
                pending.append(part)
    return places


_LONGEST_INDENTED = 100_000  # characters


def written(choices: Random, content: Any) -> bytes:
    """Write a JSON value as a person, or a careless program, might."""
    care = choices.random()
    if care < 0.3:
        is_ascii, indent = choices.random() < 0.7, choices.choice((None, 2))
        plain = json.dumps(content, ensure_ascii=is_ascii, indent=indent)
        if len(plain) > _LONGEST_INDENTED:  # the blanks of a deep nesting grow with its square
            plain = json.dumps(content, ensure_ascii=is_ascii)
        data = plain.encode(errors="surrogatepass")
    else:
        data = _carelessly(choices, content, (1 - care) / 10).encode(errors="surrogatepass")
    if choices.random() < 0.8:
        return data
    at = choices.randrange(len(data) + 1)
    return choices.choice(
        (
            data[:at],
            data[:at] + choices.randbytes(choices.choice((1, 2, 9))) + data[at + 1 :],
            b"\xef\xbb\xbf" + data,
            data.decode(errors="replace").encode(choices.choice(("utf-16", "utf-32", "utf-7"))),
            b64encode(data),
            b"[" * choices.choice((10, 1_000, 100_000)) + data,
            b'{"a":' * choices.choice((10, 1_000, 100_000)) + data,
            data + data,
            b"",
        )
    )


_CARELESS = (
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "01",
    "1.",
    ".5",
    "0x10",
    "1" * 5_000,
    "-",
    "+1",
    "nul",
    "True",
    "'a'",
    "",
    "/**/1",
)


def _carelessly(choices: Random, content: Any, chance: float) -> str:
    """Write JSON with faults: repeated names, numbers of other languages, commas too many."""
    if choices.random() < chance:
        return choices.choice(_CARELESS)
    match content:
        case dict():
            members = [(name, part) for name, part in content.items() for _ in range(1 + (choices.random() < chance))]
            parts = [f"{json.dumps(name)}:{_carelessly(choices, part, chance)}" for name, part in members]
            made = f"{{{','.join(parts)}}}"
        case list():
            made = f"[{','.join(_carelessly(choices, part, chance) for part in content)}]"
        case _:
            made = json.dumps(content)
    return made.replace(",", ",,", 1) if choices.random() < chance / 10 else made
