"""Asks the deployed API as any client would, with OpenAI's own library."""

import subprocess
from dataclasses import dataclass

from openai import OpenAI

from .site import Site

# Both have a wide margin between the likeliest token and the next, so rounding does not change the answer.
CHAT = "What is the opposite of hot?"
COMPLETION = "The capital of France is"
STOP = "\n"  # a completion goes on for ever; its first line is the answer


@dataclass(frozen=True)
class Answers:
    """What the model said to the chat question and to the text to be completed."""

    chat: str
    completion: str


def fetch_key(site: Site) -> str:
    """The first API key, from the host; it is in no argument and in no file here.

    Raises:
        subprocess.CalledProcessError: the host or the key is not there.
    """
    command = site.key_command
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
    return done.stdout.strip()


def ask(site: Site, key: str) -> Answers:
    """Ask both questions.

    Raises:
        openai.OpenAIError: the API refused, or did not answer.
    """
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
    said, completed = chat.choices[0], completion.choices[0]
    return Answers(
        _whole(said.message.content or "", said.finish_reason),
        _whole(completed.text, completed.finish_reason),
    )


def _whole(text: str, finish_reason: str) -> str:
    """The answer, with a sign where it was cut short."""
    return f"{text.strip()} …" if finish_reason == "length" else text.strip()
