"""Writes the asynchronous client."""

from api.client.derivation.files import TARGET, all_derived

if __name__ == "__main__":
    for name, text in all_derived().items():
        (TARGET / name).write_text(text, encoding="utf-8")
