# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of what is inside, as CycloneDX 1.6 JSON and as one line per package.

https://cyclonedx.org/docs/1.6/json/; package URLs by https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

#: Namespace of the document's serial number, which is made from its content.
_NAMESPACE = uuid.UUID("6f1f3a62-8f3d-5b8e-9d0a-3a2f0c5b7e11")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """``kind`` is deb or pypi; ``source`` the Debian source package and its version; ``part`` the one file taken."""

    kind: str
    name: str
    version: str
    arch: str = ""
    source: str = ""
    licence: str = ""
    part: str = ""

    @property
    def purl(self) -> str:
        """The package URL."""
        name = quote(self.name.lower() if self.kind == "pypi" else self.name, safe="")
        scope = "deb/debian" if self.kind == "deb" else "pypi"
        qualifier = f"?arch={self.arch}" if self.arch else ""
        subpath = f"#{quote(self.part)}" if self.part else ""
        return f"pkg:{scope}/{name}@{quote(self.version, safe='')}{qualifier}{subpath}"


def debian_packages(status: str) -> list[Package]:
    """Read dpkg's status file."""
    found = []
    for paragraph in status.strip().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if not fields["Status"].endswith(" installed"):
            continue
        source = fields.get("Source", fields["Package"])
        name, _, version = source.partition(" ")
        found.append(
            Package(
                kind="deb",
                name=fields["Package"],
                version=fields["Version"],
                arch=fields["Architecture"],
                source=f"{name} {version.strip('()') or fields['Version']}",
            )
        )
    return sorted(found)


def python_packages(lib: Path) -> list[Package]:
    """Read the metadata beside installed packages."""
    found = []
    for metadata in lib.glob("*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(metadata.read_text())
        licence = fields.get("License-Expression", "")
        found.append(Package(kind="pypi", name=fields["Name"], version=fields["Version"], licence=licence))
    return sorted(found)


def listing(packages: list[Package]) -> str:
    """One line per package: kind, name, version, architecture, source, and the file if it is only one of it."""
    fields = ((item.kind, item.name, item.version, item.arch, item.source, item.part) for item in packages)
    return "".join(f"{' '.join(filter(None, line))}\n" for line in fields)


def cyclonedx(packages: list[Package], *, name: str, version: str, arch: str, epoch: int, archive: str) -> str:
    """The document; ``archive`` are the hashes of the Release files that Debian's packages came by."""
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {version} {arch} {listing(packages)}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z"),
            "component": {"type": "operating-system", "bom-ref": name, "name": name, "version": version},
            "properties": [{"name": "mesh-relay:architecture", "value": arch}]
            + [{"name": "mesh-relay:debian-release-sha256", "value": line} for line in archive.splitlines()],
        },
        "components": [_component(item) for item in packages],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _component(item: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": item.purl,
        "name": item.name,
        "version": item.version,
        "purl": item.purl,
    }
    if item.licence:
        component["licenses"] = [{"expression": item.licence}]
    if item.source:
        component["properties"] = [{"name": "debian:source", "value": item.source}]
    return component
