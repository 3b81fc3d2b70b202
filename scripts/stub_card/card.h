// Interface of the stub's libraries: libcudart holds the card, the others query it.
#pragma once
#include <stddef.h>
#define API __attribute__((visibility("default")))

enum place { NOWHERE, ON_CARD, ON_HOST };

size_t stub_total_bytes(void);
int stub_attribute(int which);
enum place stub_place(const void *address);
// Count a kernel, or add a node to the graph that its stream is recording.
void stub_launch(const char *kernel, void *stream);
// Return 1, with a complaint, if a call is forbidden because a stream is being recorded.
int stub_forbidden(const char *call);
// Print a line to stderr about something that a real card would refuse or get wrong.
void stub_complain(const char *format, ...);
// Print a line to the file named by STUB_LOG.
void stub_note(const char *format, ...);
