"""The header in which App Service names the person who has signed in."""

import json
from base64 import b64encode
from typing import Any

ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"


def principal(*roles: str, name: str = "ada@acme.example", **fields: Any) -> str:
    """Return the value of `X-MS-CLIENT-PRINCIPAL` for a person with these app roles."""
    claims = [{"typ": "preferred_username", "val": name}, *({"typ": "roles", "val": role} for role in roles)]
    content = {"auth_typ": "aad", "name_typ": "preferred_username", "role_typ": ROLE, "claims": claims, **fields}
    return b64encode(json.dumps(content).encode()).decode()
