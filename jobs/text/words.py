"""What is in a text: works on a stored value, line by line, so that its size does not matter."""

import collections
import json
import re

from jobs import Job

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


class Words(Job):
    """Launch it with `"pulzar_data": "<key>"`: it then runs on a node that has that key."""

    def execute(self) -> dict[str, object]:
        """Description: Counts lines, words and characters of a stored text (pulzar_data).
        Finds the most frequent words.
        Arguments: {"top": "int", "result": "str"}
        Category: text
        Author: Pulzar

        `top` is how many of the most frequent words are told: 10. Under the key `result`, when it is given, all
        words are stored with their numbers, as JSON.
        """
        if self.data_path is None:
            raise ValueError("there is no text; give a key as pulzar_data")
        top = int(self.arguments.get("top", 10))
        size = self.data_path.stat().st_size
        lines = characters = seen = 0
        counts: collections.Counter[str] = collections.Counter()
        with self.data_path.open("rb") as file:
            for line in file:
                text = line.decode("utf-8", "replace")
                lines += 1
                seen += len(line)
                characters += len(text)
                counts.update(word.lower() for word in WORD.findall(text))
                self.progress(seen, size, "bytes")
        summary: dict[str, object] = {
            "key": self.data_key,
            "lines": lines,
            "words": counts.total(),
            "characters": characters,
            "top": counts.most_common(top),
        }
        result = self.arguments.get("result")
        if result:
            table = json.dumps(dict(counts.most_common()), ensure_ascii=False)
            summary["result"] = self.store(table.encode(), result, overwrite=True)
        return summary
