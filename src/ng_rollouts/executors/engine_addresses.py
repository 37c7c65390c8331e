"""Finds out which of the given addresses of gauges belong to which endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit


def match(urls: Iterable[str], addresses: Iterable[str]) -> dict[str, str]:
    """The addresses of URLs: the one at the same host and port, or else the one at the same host.

    A URL has no address if there are several candidates, for it or for the address.
    """
    urls, addresses = list(dict.fromkeys(urls)), list(addresses)
    matches: dict[str, str] = {}
    for place_of in (_host_and_port, _host):
        free_urls = _only_ones((url for url in urls if url not in matches), place_of)
        free_addresses = _only_ones((each for each in addresses if each not in matches.values()), place_of)
        matches |= {url: free_addresses[place] for place, url in free_urls.items() if place in free_addresses}
    return matches


def _only_ones(urls: Iterable[str], place_of: Callable[[str], object]) -> dict[object, str]:
    """The URLs that are alone at their place, by place."""
    by_place: dict[object, list[str]] = {}
    for url in urls:
        by_place.setdefault(place_of(url), []).append(url)
    return {place: each[0] for place, each in by_place.items() if len(each) == 1}


def _host_and_port(url: str) -> object:
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _host(url: str) -> object:
    return urlsplit(url).hostname
