"""hnswlib (f32) and usearch (f16) on given vectors, for benches/index.rs: answers on stdout line by line.

Usage: index-peers.py ROWS.f32 QUERIES.f32 DIMENSIONS K M EF_CONSTRUCTION. The first line is a name and the seconds of
processor time of its build, for each library that is installed. Then each line "NAME EF" on stdin is answered by
the microseconds of processor time a query took and the rows found for all queries. Everything runs on one thread.
"""

import sys
import time


def main():
    try:
        import numpy
    except ImportError:
        print("numpy is not installed", flush=True)
        return
    rows_path, queries_path = sys.argv[1:3]
    dimensions, k, m, ef_construction = map(int, sys.argv[3:])
    rows = numpy.fromfile(rows_path, dtype=numpy.float32).reshape(-1, dimensions)
    queries = numpy.fromfile(queries_path, dtype=numpy.float32).reshape(-1, dimensions)
    keys = numpy.arange(len(rows))
    searches = {}
    builds = []

    def timed(work):
        start = time.process_time()
        result = work()
        return result, time.process_time() - start

    try:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=dimensions)
        index.init_index(max_elements=len(rows), M=m, ef_construction=ef_construction, random_seed=1)
        index.set_num_threads(1)
        builds.append(("hnswlib-f32", timed(lambda: index.add_items(rows, keys, num_threads=1))[1]))

        def search_hnswlib(ef):
            index.set_ef(ef)
            (found, _), seconds = timed(lambda: index.knn_query(queries, k=k, num_threads=1))
            return found, seconds

        searches["hnswlib-f32"] = search_hnswlib
    except ImportError:
        pass
    try:
        from usearch.index import Index

        graph = Index(ndim=dimensions, metric="ip", dtype="f16", connectivity=m, expansion_add=ef_construction)
        builds.append(("usearch-f16", timed(lambda: graph.add(keys, rows, threads=1))[1]))

        def search_usearch(ef):
            graph.expansion_search = ef
            found, seconds = timed(lambda: graph.search(queries, k, threads=1))
            return found.keys, seconds

        searches["usearch-f16"] = search_usearch
    except ImportError:
        pass
    if not builds:
        print("neither is installed", flush=True)
        return
    print(" ".join(f"{name} {seconds}" for name, seconds in builds), flush=True)
    for line in sys.stdin:
        name, ef = line.split()
        found, seconds = searches[name](int(ef))
        rows_found = " ".join(str(int(row)) for row in numpy.asarray(found).reshape(-1))
        print(f"{seconds * 1e6 / len(queries)} {rows_found}", flush=True)


main()
