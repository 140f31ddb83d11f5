"""A reporter that remembers what it heard."""


class Heard:
    """`said` holds every sentence, in order; progress is not kept."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(str(text))

    def progress(self, stage, done, total, detail=""):
        pass

    def about(self, word):
        return [text for text in self.said if isinstance(text, str) and text.startswith(word)]
