/*
 * components.h: which nodes of a graph lie on cycles, and an order for the rest.
 */
#ifndef ROWSYNC_COMPONENTS_H
#define ROWSYNC_COMPONENTS_H

/* What a ComponentEdge returns instead of a node. */
#define COMPONENT_NO_EDGE (-1)
#define COMPONENT_LAST_EDGE (-2)

/* The n'th node, from 0, that a node refers to; or one of the two above. */
typedef int (*ComponentEdge)(void *graph, int node, int n);

int find_components(int count, ComponentEdge edge, void *graph, int *component, int *order);

#endif
