/*
 * components.c: Tarjan's search for strongly connected components (SIAM Journal on Computing 1(2),
 * 1972), with a stack of its own instead of recursion: a chain of references may be as long as a
 * request has changes.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "components.h"

/* What the search knows of a node. */
typedef struct Mark
{
    int visit;  /* when it was first seen, from 1; 0 = not yet */
    int lowest; /* earliest visit that is reachable from it and not yet in a component */
    int edge;   /* the next edge to follow */
    bool open;  /* seen, and not yet in a component */
} Mark;

/*
 * Numbers the components of a graph of count nodes in the order in which they are complete: what a
 * node refers to has a lower number, or the same one if it refers back. component[node] is the
 * number, order lists the nodes by it. Returns how many components there are.
 */
int
find_components(int count, ComponentEdge edge, void *graph, int *component, int *order)
{
    Mark *marks = palloc0(Max(count, 1) * sizeof(Mark));
    int *path = palloc(Max(count, 1) * sizeof(int)); /* from the root to the current node */
    int *open = palloc(Max(count, 1) * sizeof(int)); /* nodes of components not yet complete */
    int visits = 0;
    int components = 0;
    int ordered = 0;
    int depth = 0;
    int nopen = 0;

    for (int root = 0; root < count; root++)
    {
        if (marks[root].visit != 0)
            continue;
        path[depth++] = root;
        while (depth > 0)
        {
            int node = path[depth - 1];
            Mark *mark = &marks[node];
            int next;

            CHECK_FOR_INTERRUPTS();
            if (mark->visit == 0)
            {
                mark->visit = mark->lowest = ++visits;
                mark->open = true;
                open[nopen++] = node;
            }
            next = edge(graph, node, mark->edge);
            if (next >= 0 && marks[next].visit == 0)
            {
                /* Comes back to this edge when the other node is done. */
                path[depth++] = next;
                continue;
            }
            if (next >= 0 && marks[next].open)
                mark->lowest = Min(mark->lowest, marks[next].lowest);
            mark->edge++;
            if (next != COMPONENT_LAST_EDGE)
                continue;
            if (mark->lowest == mark->visit)
            {
                int member;

                do
                {
                    member = open[--nopen];
                    marks[member].open = false;
                    component[member] = components;
                    order[ordered++] = member;
                } while (member != node);
                components++;
            }
            depth--;
        }
    }
    pfree(marks);
    pfree(path);
    pfree(open);
    return components;
}
