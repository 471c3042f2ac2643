"""Pictures that tests draw, and servers that give them away, each in a manner of its own."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")  # Debian's fonts-dejavu-core
TEXT = "The quick brown fox\njumps over 13 lazy dogs"


def text(
    words: str = TEXT, size: int = 24, ink: Any = 0, ground: Any = 255, turned: float = 0.0, mode: str = "L"
) -> Image.Image:
    """Words in letters of `size` pixels; `turned` by so many degrees, against the clock."""
    font, margin = ImageFont.truetype(str(FONT), size), size
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), words, font=font)
    picture = Image.new(mode, (int(box[2]) + 2 * margin, int(box[3]) + 2 * margin), ground)
    ImageDraw.Draw(picture).multiline_text((margin, margin), words, fill=ink, font=font)
    return picture.rotate(turned, Image.Resampling.BICUBIC, expand=True, fillcolor=ground) if turned else picture


def scene(width: int = 640, height: int = 420, seed: int = 1) -> Image.Image:
    """A picture in colours in which no two places look alike: shapes and words on a soft ground."""
    pick = random.Random(seed)
    colours = bytes(pick.randrange(256) for _ in range(48 * 32 * 3))
    picture = Image.frombytes("RGB", (48, 32), colours).resize((width, height), Image.Resampling.BICUBIC)
    picture = picture.filter(ImageFilter.GaussianBlur(4))
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(str(FONT), 18)
    for number in range(40):
        x, y = pick.randrange(max(1, width - 60)), pick.randrange(max(1, height - 40))
        colour = tuple(pick.randrange(256) for _ in range(3))
        draw.ellipse((x, y, x + pick.randrange(10, 60), y + pick.randrange(10, 40)), fill=colour)
        draw.text((x, y), f"{number:02}", fill=0, font=font)
    return picture


def cut(picture: Image.Image, x: int, y: int, width: int, height: int) -> Image.Image:
    """A piece of a picture."""
    return picture.crop((x, y, x + width, y + height))


def packed(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file with the picture."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """A server on a port of its own; its address. `answer` gets each connection and the path that was asked for."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        # Whoever is cut off finds that his connection is gone.
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            answer(connection, request.split(b" ", 2)[1].decode())

    def accept() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, _ = listening.accept()
                threads.append(threading.Thread(target=one, args=(connection,)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        # Closing alone does not wake whoever waits in accept.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *threads):
            thread.join(30)
            assert not thread.is_alive(), "a connection was not closed by whoever fetched from it"


def reply(connection: socket.socket, body: bytes, head: str = "200 OK", **headers: str) -> None:
    """An answer with a Content-Length."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(f"HTTP/1.1 {head}\r\n{lines}\r\n".encode() + body)
