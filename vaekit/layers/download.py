"""Whether a download is possible, said soon."""

from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PATIENCE = 1.5
"""Seconds that a host has to answer, so that a machine without a network is told quickly."""


def unanswered_by_hub() -> str | None:
    """Why the Hugging Face hub does not answer, or None where it does; its own client tries for a minute and more."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unanswered(constants.ENDPOINT)


def unanswered(url: str) -> str | None:
    """Why nothing answers at an address, or None where something does, within `PATIENCE` seconds.

    Any answer counts, also one that says no: the download itself then tells what is wrong. In a thread, since looking
    up a host's name has no time limit of its own.
    """
    told: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=PATIENCE).close()
            told.append(None)
        except HTTPError:
            told.append(None)
        except Exception as error:
            told.append(f"{url}: {error}")

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return told[0] if told else f"{url} does not answer within {PATIENCE} s"
