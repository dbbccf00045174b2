"""What DNS says of sending domains and egress addresses: DKIM, DMARC, MX, records about TLS, reverse names.

Each check asks as little as it needs and judges what is published, without a mail. SPF is in `spf`, block lists are in
`block_lists`. The policies of MTA-STS and BIMI lie behind HTTPS and are not fetched: nothing but DNS is asked.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final

from emberflow.email_ops.dns_questions import Answer, Inquiry, Question, Verdict, addresses_of, normal_name, shown
from emberflow.email_ops.dns_tags import tags_of
from emberflow.email_ops.known_providers import of_mail_servers

POLICIES: Final = ("none", "quarantine", "reject")
_DMARC = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(;|$)")
_NO_LONGER_READ = frozenset({"pct", "rf", "ri"})  # RFC 9989
_LONGEST_WALK = 8  # labels, RFC 9989 4.10

_WEAK_RSA_BITS, _GOOD_RSA_BITS = 1024, 2048  # RFC 8301 3.2: must not be less, should not be less
_HOSTS_LOOKED_AT = 5

# Addresses that no other network sees: what leaves from them is seen as another address, that of a translator.
_INSIDE = [
    ip_network(network)
    for network in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10",
    )
]  # fmt: skip


def dkim(domain: str, selectors: Sequence[str]) -> Inquiry:
    """Judge the public keys of a domain (RFC 6376 3.6.1); each selector that is named must have a usable one.

    Where none is named, those are tried that its provider is known for.
    """
    if not selectors:
        return (yield from _dkim_of_its_provider(domain))
    keys: dict[str, Any] = {}
    failed: list[str] = []
    unknown: list[str] = []
    notes: list[str] = []
    for selector in selectors:
        name = f"{selector}._domainkey.{domain}"
        answer = yield Question(name, "TXT")
        if answer.unknown is not None:
            unknown.append(f"{name}: {answer.unknown}")
            continue
        fault, key, noted = _judge_key(answer)
        keys[selector] = key
        notes += [f"{selector}: {note}" for note in noted]
        if fault is not None:
            failed.append(f"{name} {fault}")
    details = {"keys": keys} | ({"notes": notes} if notes else {})
    if failed:
        return Verdict("fail", "; ".join(failed), details)
    if unknown:
        return Verdict("unknown", "; ".join(unknown), details)
    return Verdict("pass", ", ".join(f"{selector}: {key}" for selector, key in keys.items()), details)


def _dkim_of_its_provider(domain: str) -> Inquiry:
    """Try the selectors of whoever takes the domain's mail, by its MX records.

    That they are what signs is a guess. So a usable key under one of them passes, and nothing else says anything:
    ``unknown``, never ``fail``.
    """
    remedy = "name the selector in the policy, domain_checks"
    answer = yield Question(domain, "MX")
    if answer.unknown is not None:
        return Verdict("unknown", f"no selector is named and the MX records are not known: {answer.unknown}; {remedy}")
    provider = of_mail_servers(host for _, host in sorted(_exchanges(answer)))
    if provider is None or not provider.dkim_selectors:
        return Verdict("unknown", f"no selector of {domain} is known: {remedy}")
    keys: dict[str, str | None] = {}
    notes: list[str] = []
    told: list[str] = []
    for selector in provider.dkim_selectors:
        name = f"{selector}._domainkey.{domain}"
        answer = yield Question(name, "TXT")
        fault, key, noted = (f": {answer.unknown}", None, []) if answer.unknown is not None else _judge_key(answer)
        if fault is not None:
            told.append(f"{name} {fault}")
            continue
        keys[selector] = key
        notes += [f"{selector}: {note}" for note in noted]
    if not keys:
        return Verdict("unknown", f"no usable key where {provider.name} has them: {'; '.join(told)}; {remedy}")
    details = {"keys": keys, "provider": provider.name} | ({"notes": notes} if notes else {})
    named = ", ".join(f"{selector}: {key}" for selector, key in keys.items())
    return Verdict("pass", f"{named}, where {provider.name} has its keys: the policy names no selector", details)


def dmarc(domain: str) -> Inquiry:
    """Judge the DMARC record that holds for a domain, its own or the one of a domain above it (RFC 9989 4.10)."""
    answer = yield Question(f"_dmarc.{domain}", "TXT")
    if answer.unknown is not None:
        return Verdict("unknown", f"_dmarc.{domain}: {answer.unknown}")
    own = _dmarc_records(answer)
    if len(own) > 1:
        return Verdict("fail", f"_dmarc.{domain} has {len(own)} DMARC records, so none counts")
    if own:
        return _judge_dmarc(own[0], domain, domain)
    found: list[tuple[str, str]] = []
    for above in _walk(domain):
        answer = yield Question(f"_dmarc.{above}", "TXT")
        if answer.unknown is not None:
            return Verdict("unknown", f"_dmarc.{above}: {answer.unknown}")
        records = _dmarc_records(answer)
        if len(records) == 1:
            found.append((above, records[0]))
            if tags_of(records[0])[0].get("psd") in ("n", "y"):
                break
    if not found:
        return Verdict("fail", f"neither _dmarc.{domain} nor a domain above it has a DMARC record")
    # Without a word about public suffixes the record with the fewest labels is that of the organisation; where a
    # public suffix has one, that of the domain below it goes first.
    organisational = found[-1]
    if tags_of(organisational[1])[0].get("psd") == "y" and len(found) > 1:
        organisational = found[-2]
    return _judge_dmarc(organisational[1], domain, organisational[0])


def mx(domain: str) -> Inquiry:
    """Judge whether answers and bounces find a way to the domain (RFC 5321 5.1, RFC 7505)."""
    answer = yield Question(domain, "MX")
    if answer.unknown is not None:
        return Verdict("unknown", f"the MX records of {domain} are not known: {answer.unknown}")
    if not answer.exists:
        return Verdict("fail", f"{domain} does not exist")
    hosts = [name for _, host in sorted(_exchanges(answer)) if (name := normal_name(host))]
    if answer.records and not hosts:
        return Verdict("fail", f"{domain} takes no mail: its MX record is null (RFC 7505)")
    if not hosts:
        answer = yield from addresses_of(domain)
        if answer.unknown is not None:
            return Verdict("unknown", f"{domain} has no MX record, and its addresses are not known: {answer.unknown}")
        if not answer.records:
            return Verdict("fail", f"{domain} has neither an MX record nor an address")
        return Verdict("pass", "no MX record: mail goes to the domain's own address", {"hosts": [domain]})
    unknown: list[str] = []
    for host in hosts[:_HOSTS_LOOKED_AT]:
        answer = yield from addresses_of(host)
        if answer.records:
            return Verdict("pass", f"{shown(host)} has an address", {"hosts": [shown(one) for one in hosts]})
        if answer.unknown is not None:
            unknown.append(f"{shown(host)}: {answer.unknown}")
    details = {"hosts": [shown(host) for host in hosts]}
    if unknown or len(hosts) > _HOSTS_LOOKED_AT:
        why = "; ".join(unknown) or f"the first {_HOSTS_LOOKED_AT} have no address, the others were not looked at"
        return Verdict("unknown", f"no host that takes its mail is known to have an address: {why}", details)
    return Verdict("fail", f"no host that takes its mail has an address: {', '.join(details['hosts'])}", details)


def tls(domain: str) -> Inquiry:
    """Judge what a domain publishes about TLS: MTA-STS (RFC 8461) and TLS-RPT (RFC 8460), both optional.

    A record that is malformed counts as none at receivers, who say nothing about it; so it fails here. The policy of
    MTA-STS is not fetched, but the host that it is fetched from must have an address.
    """
    failed: list[str] = []
    unknown: list[str] = []
    details: dict[str, Any] = {}
    for name, version, needed in (("_mta-sts", "STSv1", "id"), ("_smtp._tls", "TLSRPTv1", "rua")):
        answer = yield Question(f"{name}.{domain}", "TXT")
        if answer.unknown is not None:
            unknown.append(f"{name}.{domain}: {answer.unknown}")
            continue
        records = [record for record in answer.records if record.replace(" ", "").startswith(f"v={version}")]
        details[name] = shown(records[0]) if records else None
        if len(records) > 1:
            failed.append(f"{name}.{domain} has {len(records)} records, so none counts")
        elif records and not tags_of(records[0])[0].get(needed):
            failed.append(f"{name}.{domain} has no {needed}=")
        elif records and version == "STSv1":
            host = f"mta-sts.{domain}"
            answer = yield from addresses_of(host)
            if answer.unknown is not None:
                unknown.append(f"{host}: {answer.unknown}")
            elif not answer.records:
                failed.append(f"{host} has no address, so the policy cannot be fetched")
    if failed:
        return Verdict("fail", "; ".join(failed), details)
    if unknown:
        return Verdict("unknown", "; ".join(unknown), details)
    published = [name for name, record in details.items() if record is not None]
    return Verdict("pass", f"{' and '.join(published)} published" if published else "nothing published", details)


def reverse_dns(address: str) -> Inquiry:
    """Judge whether an address has a name, and one of its names that address (forward-confirmed reverse DNS)."""
    parsed = ip_address(address)
    if is_inside(address):
        return (yield from not_visible(address))
    answer = yield Question(parsed.reverse_pointer, "PTR")
    if answer.unknown is not None:
        return Verdict("unknown", f"the name of {address} is not known: {answer.unknown}")
    names = [normal_name(name) for name in answer.records]
    if not names:
        return Verdict("fail", f"{address} has no name (PTR)")
    details = {"names": [shown(name) for name in names[:_HOSTS_LOOKED_AT]]}
    unknown: list[str] = []
    for name in names[:_HOSTS_LOOKED_AT]:
        answer = yield Question(name, "A" if parsed.version == 4 else "AAAA")
        if answer.unknown is not None:
            unknown.append(f"{shown(name)}: {answer.unknown}")
        elif address in answer.records:
            return Verdict("pass", f"{shown(name)} is {address}", details)
    if unknown or len(names) > _HOSTS_LOOKED_AT:
        why = "; ".join(unknown) or f"it has {len(names)} names, and only {_HOSTS_LOOKED_AT} were looked at"
        return Verdict("unknown", f"no name of {address} is known to have that address: {why}", details)
    return Verdict("fail", f"no name of {address} has that address: {', '.join(details['names'])}", details)


def not_visible(address: str) -> Inquiry:
    """Say of an address of a private network that nothing can be found out about it."""
    yield from ()
    return Verdict("unknown", f"{address} is of a private network: others see another address than this one")


def is_inside(address: str) -> bool:
    """Return whether an address is of a private network, so that others see another one than this."""
    parsed = ip_address(address)
    return any(parsed in network for network in _INSIDE if network.version == parsed.version)


def _judge_key(answer: Answer) -> tuple[str | None, str | None, list[str]]:
    """Return what is wrong with a selector's answer, if anything, its key in words, and what is worth a note."""
    if not answer.records:
        return "has no key", None, []
    if len(answer.records) > 1:
        return f"has {len(answer.records)} TXT records, so any of them may be read", None, []
    tags, _ = tags_of(answer.records[0])
    version = next(iter(tags)) if "v" in tags else None
    if version is not None and (version != "v" or tags["v"] != "DKIM1"):
        return "is not a DKIM key: v= is not DKIM1, or not at the beginning", None, []
    if "p" not in tags:
        return "is not a DKIM key: it has no p=", None, []
    if not tags["p"]:
        return "is revoked: its p= is empty", None, []
    notes = ["t=y says that it is a test, and some receivers then ignore it"] if "y" in _listed(tags, "t") else []
    if "h" in tags and "sha256" not in _listed(tags, "h"):
        return "allows no hash that may be used: h= lacks sha256 (RFC 8301)", None, notes
    if "s" in tags and not {"*", "email"} & set(_listed(tags, "s")):
        return "is not for mail: s= names neither email nor *", None, notes
    fault, key, noted = _judge_public_key(tags.get("k", "rsa").lower(), tags["p"])
    return fault, key, notes + noted


def _judge_public_key(kind: str, encoded: str) -> tuple[str | None, str | None, list[str]]:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - most who import this judge no key
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415

    try:
        content = b64decode(re.sub(r"\s", "", encoded), validate=True)
    except ValueError:
        return "has a key that is not base64", None, []
    if kind == "ed25519":
        if len(content) != 32:
            return f"has an Ed25519 key of {len(content)} octets instead of 32", None, []
        return None, "Ed25519", ["many receivers do not know Ed25519: sign with RSA too (RFC 8463)"]
    if kind != "rsa":
        return f"has a key of a kind that nobody knows: k={shown(kind)}", None, []
    try:
        key = load_der_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return "has a key that is not RSA", None, []
    if not isinstance(key, RSAPublicKey):
        return "has a key that is not RSA", None, []
    if key.key_size < _WEAK_RSA_BITS:
        return f"has a key of {key.key_size} bits, receivers ignore less than {_WEAK_RSA_BITS} (RFC 8301)", None, []
    weak = key.key_size < _GOOD_RSA_BITS
    return None, f"RSA {key.key_size}", [f"{key.key_size} bits, {_GOOD_RSA_BITS} are the rule"] if weak else []


def _listed(tags: dict[str, str], name: str) -> list[str]:
    return [value.strip().lower() for value in tags.get(name, "").split(":")]


def _dmarc_records(answer: Answer) -> list[str]:
    return [record for record in answer.records if _DMARC.match(record)]


def _walk(domain: str) -> Iterator[str]:
    """Yield the domains above this one, nearest first, as RFC 9989 4.10 walks: at most seven of them."""
    labels = domain.split(".")
    labels = labels[-(_LONGEST_WALK - 1) :] if len(labels) >= _LONGEST_WALK else labels[1:]
    while labels:
        yield ".".join(labels)
        labels = labels[1:]


def _judge_dmarc(record: str, domain: str, place: str) -> Verdict:
    tags, ignored = tags_of(record)
    notes = [f"{shown(piece)} is ignored" for piece in ignored]
    notes += [f"{name}= is read by no receiver any more (RFC 9989)" for name in tags if name in _NO_LONGER_READ]
    addresses = [address.strip() for address in tags.get("rua", "").split(",") if address.strip()]
    reports = [address for address in addresses if address.lower().startswith("mailto:") and "@" in address]
    notes += [f"rua: {shown(address)} is no mailto: address" for address in addresses if address not in reports]
    if not reports:
        notes.append("no rua=: nobody tells who else sends as this domain")
    details: dict[str, Any] = {"record": shown(record), "found_at": place}
    asked = tags.get("p", "none").lower()
    if place != domain and "sp" in tags:
        asked = tags["sp"].lower()
    if asked not in POLICIES:
        # RFC 9989 4.7: whoever publishes no policy that can be read, and asks for reports, is only watching.
        if not reports:
            return Verdict("fail", f"_dmarc.{place}: {shown(asked)} is none of {', '.join(POLICIES)}", details)
        notes.append(f"{shown(asked)} is no policy and counts as none")
        asked = "none"
    details |= {
        "policy": asked,
        "adkim": "strict" if tags.get("adkim", "r").lower() == "s" else "relaxed",
        "aspf": "strict" if tags.get("aspf", "r").lower() == "s" else "relaxed",
        "rua": [shown(address) for address in reports],
    }
    if notes:
        details["notes"] = notes
    where = "" if place == domain else f", from {place}"
    return Verdict("pass", f"policy {asked}{where}", details)


def _exchanges(answer: Answer) -> Iterator[tuple[int, str]]:
    for record in answer.records:
        preference, _, host = record.partition(" ")
        yield int(preference), host
