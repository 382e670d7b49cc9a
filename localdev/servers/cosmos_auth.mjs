// Checks requests: a signature with the account's key, or any Entra ID token, as tokens cannot be verified here.

import { createHmac, timingSafeEqual } from "node:crypto";

// Returns undefined if the request is allowed, else {status, message}.
export function authorize(req, key) {
  const { type, signature } = read(req.headers.authorization ?? "");
  if (!signature) return SIGNATURE_MISSING;
  if (type === "aad") return manages(req) ? MANAGEMENT_REFUSED : undefined;
  const expected = signatures(req, key);
  return expected.some((each) => equal(each, signature)) ? undefined : KEY_REFUSED;
}

// The header is the URL-encoded text `type=master&ver=1.0&sig=…`.
function read(header) {
  try {
    const parts = new URLSearchParams(decodeURIComponent(header).replaceAll("+", "%2B"));
    return { type: parts.get("type"), signature: parts.get("sig") };
  } catch {
    return {};
  }
}

const SIGNATURE_MISSING = {
  status: 401,
  message: "Required Header authorization is missing. Ensure a valid token is passed.",
};

const KEY_REFUSED = {
  status: 401,
  message:
    "The input authorization token can't serve the request. The wrong key is being used or the expected payload " +
    "is not built as per the protocol.",
};

// On Azure, data-plane roles give access to items only. Containers are created with a key or by the control plane.
const MANAGEMENT_REFUSED = {
  status: 403,
  message:
    "The given request cannot be authorized by AAD token in data plane. Create databases and containers with a key.",
};

function manages(req) {
  return req.method !== "GET" && !pathOf(req).includes("docs");
}

function pathOf(req) {
  return new URL(req.url, "http://localhost").pathname.split("/").filter(Boolean);
}

// Clients sign a path of names as it is, and a path of resource ids in lower case.
function signatures(req, key) {
  const encoded = pathOf(req);
  const decoded = encoded.map(decodeURIComponent);
  const links = [encoded, decoded].flatMap((path) => {
    const isItem = path.length % 2 === 0;
    const link = (isItem ? path : path.slice(0, -1)).join("/");
    const type = isItem ? path.at(-2) : path.at(-1);
    return [link, link.toLowerCase()].map((each) => [type ?? "", each]);
  });
  return links.map(([type, link]) => {
    const lines = [req.method, type, link, req.headers["x-ms-date"] ?? "", req.headers.date ?? ""];
    const text = lines.map((line, i) => (i === 2 ? line : line.toLowerCase())).join("\n");
    return createHmac("sha256", Buffer.from(key, "base64")).update(`${text}\n`).digest("base64");
  });
}

function equal(a, b) {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}
