// What the stub's libraries share: libcudart holds the card, the others ask it.
#pragma once
#include <stddef.h>
#define API __attribute__((visibility("default")))

enum place { NOWHERE, ON_CARD, ON_HOST };

size_t stub_total_bytes(void);
int stub_attribute(int which);
enum place stub_place(const void *address);
// Counts a kernel, or adds a node to the graph that its stream is recording.
void stub_launch(const char *kernel, void *stream);
// Whether a call is forbidden because a stream is being recorded; complains where it is.
int stub_forbidden(const char *call);
// A line to stderr, for what a real card would refuse or get wrong.
void stub_complain(const char *format, ...);
// A line to the file that STUB_LOG names.
void stub_note(const char *format, ...);
