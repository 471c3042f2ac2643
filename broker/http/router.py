"""The routes that do not need Flask: the hot ones of the master, and those of a node's data server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from broker.http import responses
from broker.http.responses import Response
from broker.refusals import MethodNotAllowed

Handler = TypeVar("Handler")
Other = TypeVar("Other")


class Router(Generic[Handler]):
    """Finds the handler of a request.

    `routes` has the handlers of each path by method. A path that ends with "/" stands for all paths below it.
    Every path has OPTIONS.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Handler]],
        methods: Mapping[str, Callable[[str], Iterable[str]]] | None = None,
    ) -> None:
        """`methods` gives those that a path below a route has, for routes whose paths do not all have the same."""
        self._routes = routes
        self._methods = methods or {}
        self._deep = [path for path in routes if path.endswith("/") and path.count("/") > 2]

    def handler(self, path: str, method: str) -> Handler | None:
        """The handler of a request; None for a path without a route. Raises `MethodNotAllowed`."""
        handlers = self._routes.get(path[: path.find("/", 1) + 1]) or self._routes.get(self._route(path))
        if handlers is None:
            return None
        found = handlers.get(method)
        if found is None:
            route = self._route(path)
            shown = f"{route}…" if route.endswith("/") else route
            raise MethodNotAllowed(method, shown, sorted({*handlers, "OPTIONS"}))
        return found

    def mapped(self, change: Callable[[str, str, Handler], Other]) -> Router[Other]:
        """The same routes with other handlers: what `change` makes of method, path and handler."""
        return Router(
            {
                path: {method: change(method, path, handler) for method, handler in handlers.items()}
                for path, handlers in self._routes.items()
            },
            self._methods,
        )

    def has(self, path: str) -> bool:
        """Whether a path has a route."""
        return self._route(path) in self._routes

    def options(self, path: str, page: bool) -> Response:
        """The response to OPTIONS; `page`: that of a browser whose page may send requests."""
        route = self._route(path)
        if route in self._methods:
            return responses.options(self._methods[route](path), page)
        return responses.options(self._routes.get(route, responses.ALL_METHODS), page)

    def _route(self, path: str) -> str:
        """The route of a path: its first segment, a longer beginning of it or the whole path."""
        first = path[: path.find("/", 1) + 1]
        if first in self._routes:
            return first
        return next((route for route in self._deep if path.startswith(route)), path)
