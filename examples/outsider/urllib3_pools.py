"""Two threads share a `PoolManager` of urllib3 that keeps one pool."""

import sys

import urllib3
from harness.schedule import Budget, explore


def two_hosts(run):
    manager = urllib3.PoolManager(num_pools=1)

    def request(host):
        pool = manager.connection_from_host(host)
        connection = pool._get_conn()  # what `urlopen` does first; it connects nowhere
        pool._put_conn(connection)

    run.thread(request, "a.example", name="first")
    run.thread(request, "b.example", name="second")
    run.join()


if __name__ == "__main__":
    result = explore(two_hosts, budget=Budget(int(sys.argv[1])), modules=["urllib3"])
    print(urllib3.__version__, result.story)
