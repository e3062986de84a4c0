/*
 * aioioth_speedups._moving: what Python sees of the two directions.
 *
 * An object may be used by any thread, but by one at a time. The interpreter is free for
 * others during each call.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sys/socket.h>

#include "movers.h"

_Thread_local unsigned char room[ROOM];

bool count_drop(struct tally *tally, int error, size_t count)
{
	for (size_t each = 0; each < tally->causes; each++) {
		if (tally->cause[each].error == error) {
			tally->cause[each].count += count;
			tally->dropped = true;
			return true;
		}
	}
	return false;
}

/* What both objects begin with, for what both can do. */
struct mover {
	PyObject ob_base;
	bool busy;
	struct tally *tally;
	enum state (*move)(struct mover *mover, size_t budget);
};

struct sender_object {
	struct mover mover;
	struct sender sender;
};

struct receiver_object {
	struct mover mover;
	struct receiver receiver;
};

static enum state move_sender(struct mover *mover, size_t budget)
{
	return sender_move(&((struct sender_object *)mover)->sender, budget);
}

static enum state move_receiver(struct mover *mover, size_t budget)
{
	return receiver_move(&((struct receiver_object *)mover)->receiver, budget);
}

/* Causes of drops, and what we may say besides of a frame. */
static bool set_causes(struct tally *tally, PyObject *errors)
{
	static const int always[] = { MALFORMED, ENOBUFS, EMSGSIZE };
	size_t count = sizeof always / sizeof *always;
	PyObject *iterator = PyObject_GetIter(errors), *item;

	if (!iterator)
		return false;
	for (size_t each = 0; each < count; each++)
		tally->cause[each].error = always[each];
	tally->causes = count;
	while ((item = PyIter_Next(iterator))) {
		long error = PyLong_AsLong(item);

		Py_DECREF(item);
		if (error == -1 && PyErr_Occurred())
			break;
		if (error <= 0 || error > 4095) {
			PyErr_SetString(PyExc_ValueError, "no errno");
			break;
		}
		if (tally->causes == MAX_CAUSES) {
			PyErr_Format(PyExc_ValueError, "more than %d causes of drops",
				     MAX_CAUSES - (int)count);
			break;
		}
		tally->cause[tally->causes++].error = (int)error;
	}
	Py_DECREF(iterator);
	return !PyErr_Occurred();
}

static PyObject *make(PyTypeObject *type)
{
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);

	return allocate(type, 0);
}

static PyObject *new_sender(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "tap", "socket", "drops", NULL };
	struct sender_object *self;
	PyObject *drops;
	int tap, sock;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiO:Sender", names, &tap, &sock,
					 &drops))
		return NULL;
	self = (struct sender_object *)make(type);
	if (!self)
		return NULL;
	self->sender = (struct sender){ .tap = tap, .socket = sock };
	self->mover.tally = &self->sender.tally;
	self->mover.move = move_sender;
	if (!set_causes(self->mover.tally, drops)) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

static PyObject *new_receiver(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "socket", "tap", "drops", "size", NULL };
	int tap, sock, kind = 0, size = LONGEST_FRAME;
	socklen_t kind_size = sizeof kind;
	struct receiver_object *self;
	PyObject *drops;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiO|i:Receiver", names, &sock,
					 &tap, &drops, &size))
		return NULL;
	if (size < 14 || size > LONGEST_FRAME) {
		PyErr_Format(PyExc_ValueError, "a frame has 14 to %d bytes, not %d",
			     LONGEST_FRAME, size);
		return NULL;
	}
	if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &kind, &kind_size) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	self = (struct receiver_object *)make(type);
	if (!self)
		return NULL;
	self->receiver = (struct receiver){
		.socket = sock,
		.tap = tap,
		.size = (size_t)size,
		.has_end = kind == SOCK_SEQPACKET,
	};
	self->mover.tally = &self->receiver.tally;
	self->mover.move = move_receiver;
	if (!set_causes(self->mover.tally, drops)) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

static void dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	release(self);
	Py_DECREF(type);
}

static void dealloc_sender(PyObject *self)
{
	sender_clear(&((struct sender_object *)self)->sender);
	dealloc(self);
}

static bool is_busy(const struct mover *mover)
{
	if (mover->busy)
		PyErr_SetString(PyExc_RuntimeError, "another thread is using this object");
	return mover->busy;
}

static PyObject *move(PyObject *self, PyObject *argument)
{
	struct mover *mover = (struct mover *)self;
	Py_ssize_t budget = PyLong_AsSsize_t(argument);
	enum state state;

	if (budget == -1 && PyErr_Occurred())
		return NULL;
	if (budget < 1) {
		PyErr_SetString(PyExc_ValueError, "a budget is 1 or more");
		return NULL;
	}
	if (is_busy(mover))
		return NULL;
	mover->tally->frames = mover->tally->bytes = 0;
	mover->busy = true;
	Py_BEGIN_ALLOW_THREADS
	state = mover->move(mover, (size_t)budget);
	Py_END_ALLOW_THREADS
	mover->busy = false;
	return Py_BuildValue("inn", (int)state, (Py_ssize_t)mover->tally->frames,
			     (Py_ssize_t)mover->tally->bytes);
}

static PyObject *take_drops(PyObject *self, PyObject *Py_UNUSED(argument))
{
	struct mover *mover = (struct mover *)self;
	struct tally *tally = mover->tally;
	PyObject *drops;

	if (is_busy(mover) || !(drops = PyDict_New()))
		return NULL;
	for (size_t each = 0; each < tally->causes; each++) {
		struct cause *cause = &tally->cause[each];
		PyObject *key, *count;

		if (!cause->count)
			continue;
		key = PyLong_FromLong(cause->error);
		count = PyLong_FromSize_t(cause->count);
		if (!key || !count || PyDict_SetItem(drops, key, count) < 0)
			Py_CLEAR(drops);
		Py_XDECREF(key);
		Py_XDECREF(count);
		if (!drops)
			return NULL;
		cause->count = 0;
	}
	tally->dropped = false;
	return drops;
}

static PyObject *get_dropped(PyObject *self, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(((struct mover *)self)->tally->dropped);
}

static PyObject *get_error(PyObject *self, void *Py_UNUSED(closure))
{
	return PyLong_FromLong(((struct mover *)self)->tally->error);
}

static PyObject *get_pending(PyObject *self, void *Py_UNUSED(closure))
{
	struct sender_object *object = (struct sender_object *)self;

	if (is_busy(&object->mover))
		return NULL;
	return PyLong_FromSize_t(sender_pending(&object->sender));
}

/* Nothing is kept on the way to a TAP, but a pump need not know which way is its own. */
static PyObject *clear_nothing(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(argument))
{
	return PyLong_FromLong(0);
}

static PyObject *clear(PyObject *self, PyObject *Py_UNUSED(argument))
{
	struct sender_object *object = (struct sender_object *)self;
	size_t count;

	if (is_busy(&object->mover))
		return NULL;
	count = sender_pending(&object->sender);
	sender_clear(&object->sender);
	return PyLong_FromSize_t(count);
}

static const char sender_doc[] =
	"Sender(tap, socket, drops)\n"
	"--\n"
	"\n"
	"Frames from a TAP to a socket that takes whole ones.\n"
	"\n"
	"Frames that are long because many were joined are cut (TCP over IPv4 and IPv6,\n"
	"with VLAN tags or without), checksums that were begun are finished. What the socket\n"
	"has no room for is kept, in order, and sent first in the next call.\n"
	"\n"
	"Args:\n"
	"    tap: Descriptor whose reads give a struct virtio_net_hdr and a frame. Not owned.\n"
	"    socket: Descriptor of the socket, connected. Not owned.\n"
	"    drops: What the socket may answer to a frame without being broken, as errnos.\n"
	"        ENOBUFS and EMSGSIZE are so always.\n"
	"\n"
	"Attributes:\n"
	"    pending: How many frames wait for room.\n"
	"    dropped: Whether `take_drops` has something.\n"
	"    error: Why an end is broken: an errno.";

static const char receiver_doc[] =
	"Receiver(socket, tap, drops, size=65554)\n"
	"--\n"
	"\n"
	"Frames from a socket that gives whole ones to a TAP.\n"
	"\n"
	"Segments of a TCP connection that follow one another in one call, and are right,\n"
	"are written as one.\n"
	"\n"
	"Args:\n"
	"    socket: Descriptor of the socket. Not owned. An empty message is the end of a\n"
	"        SOCK_SEQPACKET one.\n"
	"    tap: Descriptor that is written a struct virtio_net_hdr and a frame. Not owned.\n"
	"    drops: What the TAP may answer to a frame without being broken, as errnos.\n"
	"        ENOBUFS and EMSGSIZE are so always.\n"
	"    size: Of the longest frame; longer ones are drops, EMSGSIZE. The fewer bytes,\n"
	"        the more frames for each system call.\n"
	"\n"
	"Attributes:\n"
	"    dropped: Whether `take_drops` has something.\n"
	"    error: Why an end is broken: an errno.";

static const char move_doc[] =
	"move($self, budget, /)\n"
	"--\n"
	"\n"
	"Move what waits, a budget of frames at most.\n"
	"\n"
	"It is some 1500 more if a frame from a TAP is for many; what is left of it waits\n"
	"here then, as if the sink were full.\n"
	"\n"
	"Returns:\n"
	"    How it ended (EMPTY, MORE, FULL, SOURCE_BROKEN, SINK_BROKEN), how many frames\n"
	"    arrived, and their bytes.";

static const char take_drops_doc[] =
	"take_drops($self, /)\n"
	"--\n"
	"\n"
	"Return the frames lost since the last time, by errno.";

static const char clear_doc[] = "clear($self, /)\n"
				"--\n"
				"\n"
				"Forget the frames that are kept, and return how many.";

static PyMethodDef sender_methods[] = {
	{ "move", move, METH_O, move_doc },
	{ "take_drops", take_drops, METH_NOARGS, take_drops_doc },
	{ "clear", clear, METH_NOARGS, clear_doc },
	{ 0 },
};
static PyGetSetDef sender_getters[] = {
	{ "dropped", get_dropped, NULL, NULL, NULL },
	{ "error", get_error, NULL, NULL, NULL },
	{ "pending", get_pending, NULL, NULL, NULL },
	{ 0 },
};
static PyType_Slot sender_slots[] = {
	{ Py_tp_doc, (void *)sender_doc },
	{ Py_tp_new, new_sender },
	{ Py_tp_dealloc, dealloc_sender },
	{ Py_tp_methods, sender_methods },
	{ Py_tp_getset, sender_getters },
	{ 0 },
};
static PyType_Spec sender_spec = {
	.name = "aioioth_speedups.Sender",
	.basicsize = sizeof(struct sender_object),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = sender_slots,
};

static PyMethodDef receiver_methods[] = {
	{ "move", move, METH_O, move_doc },
	{ "take_drops", take_drops, METH_NOARGS, take_drops_doc },
	{ "clear", clear_nothing, METH_NOARGS, clear_doc },
	{ 0 },
};
static PyGetSetDef receiver_getters[] = {
	{ "dropped", get_dropped, NULL, NULL, NULL },
	{ "error", get_error, NULL, NULL, NULL },
	{ 0 },
};
static PyType_Slot receiver_slots[] = {
	{ Py_tp_doc, (void *)receiver_doc },
	{ Py_tp_new, new_receiver },
	{ Py_tp_dealloc, dealloc },
	{ Py_tp_methods, receiver_methods },
	{ Py_tp_getset, receiver_getters },
	{ 0 },
};
static PyType_Spec receiver_spec = {
	.name = "aioioth_speedups.Receiver",
	.basicsize = sizeof(struct receiver_object),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = receiver_slots,
};

static int add_type(PyObject *module, PyType_Spec *spec)
{
	PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
	int result;

	if (!type)
		return -1;
	result = PyModule_AddType(module, (PyTypeObject *)type);
	Py_DECREF(type);
	return result;
}

static int fill(PyObject *module)
{
	static const struct {
		const char *name;
		long value;
	} numbers[] = {
		{ "EMPTY", EMPTY },
		{ "MORE", MORE },
		{ "FULL", FULL },
		{ "SOURCE_BROKEN", SOURCE_BROKEN },
		{ "SINK_BROKEN", SINK_BROKEN },
		{ "MALFORMED", MALFORMED },
		{ "LONGEST", LONGEST_FRAME },
	};

	for (size_t each = 0; each < sizeof numbers / sizeof *numbers; each++)
		if (PyModule_AddIntConstant(module, numbers[each].name,
					    numbers[each].value) < 0)
			return -1;
	if (add_type(module, &sender_spec) < 0)
		return -1;
	return add_type(module, &receiver_spec);
}

static PyModuleDef_Slot slots[] = { { Py_mod_exec, fill }, { 0 } };
static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "aioioth_speedups._moving",
	.m_doc = "The two directions between a TAP and a socket.",
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__moving(void)
{
	return PyModuleDef_Init(&definition);
}
