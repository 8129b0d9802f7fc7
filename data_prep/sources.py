"""Where sequences come from: public sources by name, addresses, Hub data sets, files; with licence and release."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from data_prep.download import Progress, default_cache, fetch
from data_prep.formats import is_local, local_path, parse_item
from data_prep.hub import HUB, HUB_NAME
from data_prep.transfer import PATIENCE, Patience, RemoteFile
from plm_scaling.core.errors import ConfigError, CorpusError, did_you_mean

__all__ = ["KNOWN", "SourceSpec", "fetch_source", "parse_checksums", "parse_metalink", "resolve_source", "stream_items"]

KNOWN: Final = Path(__file__).with_name("sources.toml")
_KNOWN_WORD: Final = re.compile(r"(\w+)(?:@([\w.-]+))?")
_CHECKSUM_LINE: Final = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+\*?(\S.*)")
_ALGORITHMS: Final = {32: "md5", 64: "sha256"}
_FRAGMENT: Final = re.compile(r"(md5|sha1|sha256|sha512)=([0-9a-fA-F]+)")


@dataclass(frozen=True)
class SourceSpec:
    """A source of sequences before anything of it is read.

    Parameters
    ----------
    name : what the corpus will call it.
    files : what is to be downloaded.
    items : what is read where it is: files of this machine, data sets of the Hub.
    origin : where it comes from, with the release: goes into the manifest.
    licence : terms of use, empty if they are not known.
    licence_url, citation, title : what to print beside them.
    release : the publisher's name of the release, empty if there is none.
    about_bytes : size of what is to be read, None if it is not known.
    unverified : names of the facts above that were not checked against the publisher.
    """

    name: str
    files: tuple[RemoteFile, ...] = ()
    items: tuple[str, ...] = ()
    origin: str = ""
    licence: str = ""
    licence_url: str = ""
    citation: str = ""
    title: str = ""
    release: str = ""
    about_bytes: int | None = None
    unverified: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Lines for the user: what it is, whose it is, under which terms, and what of this is not certain."""
        doubt = {fact: " (unverified)" for fact in self.unverified}
        size = f"about {self.about_bytes / 1e9:,.1f} GB{doubt.get('about_bytes', '')}" if self.about_bytes else ""
        lines = [
            self.title,
            f"from {self.origin}" if self.origin else "",
            size,
            f"licence: {self.licence or 'not known'}{doubt.get('licence', '')} {self.licence_url}".rstrip(),
            f"please cite: {self.citation}" if self.citation else "",
        ]
        return [line for line in lines if line]


@cached
def _known() -> dict[str, dict[str, Any]]:
    return tomllib.loads(KNOWN.read_text())


def resolve_source(
    word: str, *, cache: Path | None = None, online: bool = True, patience: Patience = PATIENCE
) -> SourceSpec:
    """What a user means by the name of a source.

    Parameters
    ----------
    word : a known name (`uniref50`, `mgnify@2024_04`), an address (`https://.../x.fa.gz#md5=HEX`), `hf://OWNER/NAME`,
        or a path.
    cache : folder of the cache of downloads.
    online : ask the publisher for release, sizes and checksums; without, the files are not checked.
    patience : how long to try.

    Raises
    ------
    ConfigError : nothing of that name, or a release that cannot be had.
    CorpusError : the publisher cannot be reached, or does not list the file.
    """
    match = _KNOWN_WORD.fullmatch(word)
    if match and match.group(1) in _known() and not Path(word).exists():
        return _known_source(match.group(1), match.group(2) or "", cache or default_cache(), online, patience)
    if word.startswith(("https://", "http://")):
        return _address(word)
    if word.startswith(HUB):
        return _hub(word, online)
    if is_local(word) and local_path(word).exists():
        return SourceSpec(_stem(local_path(word).name), items=(word,))
    raise ConfigError(
        f"no source is called {word!r}, and there is no such file",
        hint=f"{did_you_mean(word.partition('@')[0], _known())} Or give a path, an https:// address or hf://OWNER/NAME",
    )


def fetch_source(
    spec: SourceSpec, cache: Path | None = None, progress: Progress | None = None, *, patience: Patience = PATIENCE
) -> tuple[str, ...]:
    """Have all files of a source on this machine; returns what to read, in order.

    Raises
    ------
    CorpusError : a download failed; what came is kept, and the next call goes on.
    """
    return (*(str(fetch(file, cache, progress, patience=patience)) for file in spec.files), *spec.items)


def stream_items(spec: SourceSpec) -> tuple[str, ...]:
    """What to read where only the beginning of a source is wanted: remote FASTA is read as it arrives."""
    return (*(file.url for file in spec.files), *spec.items)


def _known_source(name: str, release: str, cache: Path, online: bool, patience: Patience) -> SourceSpec:
    entry = _known()[name]
    facts = {key: entry.get(key, "") for key in ("title", "licence", "licence_url", "citation")}
    facts |= {"about_bytes": entry.get("about_bytes"), "unverified": tuple(entry.get("unverified", ()))}
    if "hub" in entry:
        _, commit = _of_card(entry["hub"], release, online)
        place = HUB + entry["hub"] + (f"@{commit}" if commit else "")
        return SourceSpec(name, items=(place,), origin=place, release=commit, **facts)
    if "metalink" in entry:
        files, release = _of_metalink(name, entry, release, cache, online, patience)
    else:
        release = release or entry["default_release"]
        files = _of_checksums(entry, release, cache, online, patience)
    origin = files[0].url + (f" (release {release})" if release else "")
    if all(file.bytes for file in files):
        facts["about_bytes"] = sum(file.bytes or 0 for file in files)
        facts["unverified"] = tuple(fact for fact in facts["unverified"] if fact != "about_bytes")
    return SourceSpec(name, files=files, origin=origin, release=release, **facts)


def _of_metalink(
    name: str, entry: dict[str, Any], release: str, cache: Path, online: bool, patience: Patience
) -> tuple[tuple[RemoteFile, ...], str]:
    plain = tuple(RemoteFile(url) for url in entry["files"])
    if not online:
        return plain, release
    path = fetch(RemoteFile(entry["metalink"]), cache, patience=patience)
    current, listed = parse_metalink(path.read_bytes(), entry["metalink"])
    if release and release != current:
        raise ConfigError(
            f"release {release} of {name} cannot be downloaded by name",
            why=f"the current release is {current}; earlier ones are kept as archives of several databases",
            hint=f"unpack one from {entry['older_releases']} and give its FASTA file",
        )
    return tuple(_listed(file, listed, entry["metalink"]) for file in plain), current


def _of_checksums(
    entry: dict[str, Any], release: str, cache: Path, online: bool, patience: Patience
) -> tuple[RemoteFile, ...]:
    plain = tuple(RemoteFile(url.format(release=release)) for url in entry["files"])
    if not online:
        return plain
    url = entry["md5"].format(release=release)
    path = fetch(RemoteFile(url), cache, patience=patience)
    sums = parse_checksums(path.read_text(errors="replace"))
    listed = {name: RemoteFile(url, checksum=checksum) for name, checksum in sums.items()}
    return tuple(_listed(file, listed, url) for file in plain)


def _listed(file: RemoteFile, listed: dict[str, RemoteFile], where: str) -> RemoteFile:
    if file.name not in listed:
        raise CorpusError(
            f"the publisher's list of checksums has no {file.name}",
            where=where,
            why="it lists " + (", ".join(sorted(listed)[:8]) or "nothing"),
            hint=f"give the address itself, {file.url}: nothing is checked then",
        )
    found = listed[file.name]
    return RemoteFile(file.url, found.bytes, found.checksum)


def parse_metalink(text: bytes, where: str) -> tuple[str, dict[str, RemoteFile]]:
    """Release, and size and checksum of every file by its name, of a metalink (version 3 as UniProt writes it, or 4).

    Parameters
    ----------
    text : the XML.
    where : its address, for errors; the files are of the same folder.

    Raises
    ------
    CorpusError : it is none.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise CorpusError("not a readable metalink", where=where, why=str(error)) from None
    if _tag(root) != "metalink":
        raise CorpusError("not a metalink", where=where, why=f"the document is called {_tag(root)}")
    release = next((child.text or "" for child in root if _tag(child) == "version"), "").strip()
    folder = where.rpartition("/")[0]
    files = {}
    for element in (child for child in root.iter() if _tag(child) == "file"):
        name = element.get("name", "")
        size = next((child.text or "" for child in element.iter() if _tag(child) == "size"), "").strip()
        sums = {
            child.get("type", "").lower().replace("-", ""): (child.text or "").strip().lower()
            for child in element.iter()
            if _tag(child) == "hash"
        }
        kind = next((kind for kind in ("sha256", "md5") if sums.get(kind)), "")
        files[name] = RemoteFile(
            f"{folder}/{name}", int(size) if size.isdigit() else None, f"{kind}:{sums[kind]}" if kind else None
        )
    return release, files


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def parse_checksums(text: str) -> dict[str, str]:
    """Checksums by base name, of the text that `md5sum` and `sha256sum` write; other lines are passed over."""
    matches = (_CHECKSUM_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {
        Path(match.group(2)).name: f"{_ALGORITHMS[len(match.group(1))]}:{match.group(1).lower()}"
        for match in matches
        if match
    }


def _address(word: str) -> SourceSpec:
    url, _, fragment = word.partition("#")
    match = _FRAGMENT.fullmatch(fragment)
    if fragment and not match:
        raise ConfigError(
            f"cannot read the checksum {fragment!r}", where=word, hint="write URL#md5=HEX or URL#sha256=HEX"
        )
    file = RemoteFile(url, checksum=f"{match.group(1)}:{match.group(2).lower()}" if match else None)
    return SourceSpec(_stem(file.name), files=(file,), origin=url)


def _hub(word: str, online: bool) -> SourceSpec:
    """A data set of the Hub; its card tells the licence, its last commit is the release that is read."""
    match = HUB_NAME.fullmatch(parse_item(word).place)
    assert match is not None, "checked when the word was taken apart"
    repository, revision, config, split = match.groups()
    known = next((entry for entry in _known().values() if entry.get("hub") == repository), {})
    licence, commit = _of_card(repository, revision or "", online)
    origin = HUB + repository + (f"@{commit}" if commit else "")
    place = origin + (f"/{config}" if config else "") + (f":{split}" if split else "")
    _, mark, options = word.partition("?")
    return SourceSpec(
        repository.partition("/")[2],
        items=(place + mark + options,),
        origin=origin,
        licence=licence or str(known.get("licence", "")),
        licence_url=f"https://huggingface.co/datasets/{repository}",
        citation=str(known.get("citation", "")),
        title=str(known.get("title", "")),
        release=commit,
    )


def _of_card(repository: str, revision: str, online: bool) -> tuple[str, str]:
    """Licence and commit of a data set, as the Hub has them now."""
    if not online:
        return "", revision
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(repository, revision=revision or None)
    except Exception:
        # Reading the data set will say what is wrong; here only its licence and commit stay unknown.
        return "", revision
    told = info.card_data.get("license") if info.card_data else ""
    licence = ", ".join(told) if isinstance(told, list) else str(told or "")
    return licence, str(info.sha or revision)


def _stem(name: str) -> str:
    """Name of a file without the endings of compression and format."""
    for endings in ((".gz", ".zst"), (".fasta", ".fa", ".faa", ".fas", ".pep", ".parquet", ".arrow", ".dat", ".xml")):
        ending = next((e for e in endings if name.lower().endswith(e) and len(name) > len(e)), "")
        name = name[: len(name) - len(ending)]
    return name
