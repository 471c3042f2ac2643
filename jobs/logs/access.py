"""What an access log says. Its helper modules are beside it in its folder."""

import collections

from jobs import Job

from . import formats, tables


class Access(Job):
    """Works on a stored access log of a web server."""

    def execute(self) -> dict[str, object]:
        """Description: Sums up a stored access log (pulzar_data) of a web server: requests by status, path and client.
        Arguments: {"top": "int"}
        Category: logs
        Author: Pulzar
        """
        if self.data_path is None:
            raise ValueError("there is no log; give its key as pulzar_data")
        top = int(self.arguments.get("top", 10))
        statuses: collections.Counter[str] = collections.Counter()
        paths: collections.Counter[str] = collections.Counter()
        hosts: collections.Counter[str] = collections.Counter()
        requests = unread = sent = seen = 0
        size = self.data_path.stat().st_size
        with self.data_path.open("rb") as file:
            for line in file:
                seen += len(line)
                request = formats.parse(line.decode("utf-8", "replace"))
                if request is None:
                    unread += 1
                    continue
                requests += 1
                sent += request.size
                statuses[str(request.status)] += 1
                paths[request.path] += 1
                hosts[request.host] += 1
                self.progress(seen, size, "bytes")
        self.log(tables.table("most asked for", paths.most_common(top)))
        self.log(tables.table("by status", sorted(statuses.items())))
        return {
            "requests": requests,
            "bytes": sent,
            "not_understood": unread,
            "statuses": dict(sorted(statuses.items())),
            "paths": dict(paths.most_common(top)),
            "clients": dict(hosts.most_common(top)),
        }
