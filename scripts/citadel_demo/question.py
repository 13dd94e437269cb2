"""Asks the deployed API as any client would, with OpenAI's own library."""

import shlex
import subprocess
from dataclasses import dataclass

from .site import Site

# Both have a wide margin between the likeliest token and the next, so rounding does not change the answer.
CHAT = "What is the opposite of hot?"
COMPLETION = "The capital of France is"
STOP = "\n"  # a completion goes on for ever; its first line is the answer


class QuestionError(Exception):
    """The key could not be had, or the API refused or did not answer."""


@dataclass(frozen=True)
class Answers:
    """What the model said to the chat question and to the text to be completed."""

    chat: str
    completion: str


def fetch_key(site: Site) -> str:
    """The first API key, from the host; it is in no argument and in no file here.

    Raises:
        QuestionError: the host or the key is not there.
    """
    command = site.key_command
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise QuestionError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def ask(site: Site, key: str) -> Answers:
    """Ask both questions.

    Raises:
        QuestionError: the API refused, or did not answer.
    """
    # Takes a second to import, which the first stage should not wait for.
    from openai import OpenAI, OpenAIError  # noqa: PLC0415

    try:
        with OpenAI(base_url=site.url, api_key=key, timeout=120, max_retries=4) as client:
            chat = client.chat.completions.create(
                model=site.model,
                messages=[{"role": "user", "content": CHAT}],
                max_tokens=32,
                temperature=0,
            )
            completion = client.completions.create(
                model=site.model, prompt=COMPLETION, max_tokens=16, temperature=0, stop=STOP
            )
    except OpenAIError as error:
        raise QuestionError(f"{site.url}: {error}") from error
    said, completed = chat.choices[0], completion.choices[0]
    return Answers(
        _whole(said.message.content or "", said.finish_reason),
        _whole(completed.text, completed.finish_reason),
    )


def _whole(text: str, finish_reason: str) -> str:
    """The answer, with a sign where it was cut short."""
    return f"{text.strip()} …" if finish_reason == "length" else text.strip()
