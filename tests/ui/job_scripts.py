"""Scripts for the screens of jobs."""

from __future__ import annotations

EVIL = "<img src=x onerror=document.title=1>"
SECRET = "swordfish-swordfish"

SCRIPTS = {
    "shop/form": f'''
        from jobs import Job
        class Form(Job):
            def execute(self):
                """Description: Takes {EVIL} of every kind.
                Arguments: {{"text": "str: {EVIL}", "number": "int: how many", "ratio": {{"type": "float", "default": 0.5}}, "day": "date, optional", "unit": ["m", "cm"], "items": "list, optional", "table": "file, optional: a CSV file", "source": "key, optional", "secret": "password, optional", "deep": true}}
                Category: tests
                Author: {EVIL}
                """
                found = dict(self.arguments) | {{"length": len(self.arguments.get("text", ""))}}
                if "table" in found:
                    value = self.fetch(found["table"])
                    found["table"] = value.decode() if len(value) < 1000 else len(value)
                if "secret" in found:
                    found["secret"] = len(found["secret"])
                return found
        ''',
    "shop/talk": """
        import os, sys, time
        from jobs import run
        print("begun", flush=True)
        run.progress(1, 4, "a quarter")
        number = 0
        while not os.path.exists(run.arguments["gate"]):
            number += 1
            print(f"line {number}", flush=True)
            time.sleep(0.1)
        print("ended")
        run.output([{"name": "a", "size": 1}, {"name": "b", "size": 2}])
        """,
    "shop/evil": f"""
        from jobs import run
        print("{EVIL}")
        print("x" * 3000)
        print("ValueError: {EVIL}")
        run.progress(1, 2, "{EVIL}")
        run.output({{"{EVIL}": ["{EVIL}"], "rows": 1}})
        """,
    "shop/long": """
        for number in range(9000):
            print(f"{number:05} a line of a long log that goes on and on and on")
            if number == 1234:
                print("Traceback (most recent call last):")
        """,
    "shop/picture": """
        import base64, io
        from PIL import Image
        from jobs import run
        file = io.BytesIO()
        Image.new("RGB", (64, 32), "teal").save(file, "PNG")
        run.output(base64.b64encode(file.getvalue()).decode())
        """,
    "shop/fail": """
        raise SystemExit("it is broken")
        """,
    "shop/broken": "def execute(:",
}
