/*
 * Makes the system calls that it reads, one a line, and prints what each gave: "value errno".
 *
 *   S                                        new sequence: close everything
 *   o slot                                   open /dev/vfio/vfio
 *   g slot function                          open the group of a function
 *   x slot                                   close
 *   s slot argsz                             VFIO_GROUP_GET_STATUS, value: flags
 *   j slot container-slot                    VFIO_GROUP_SET_CONTAINER
 *   l slot                                   VFIO_GROUP_UNSET_CONTAINER
 *   d slot group-slot function               VFIO_GROUP_GET_DEVICE_FD
 *   e slot extension                         VFIO_CHECK_EXTENSION, value: its answer
 *   i slot type                              VFIO_SET_IOMMU
 *   q slot argsz                             VFIO_IOMMU_GET_INFO
 *   m slot argsz flags vaddr iova size ok    VFIO_IOMMU_MAP_DMA; ok 0: unreadable argument
 *   u slot argsz flags iova size ok          VFIO_IOMMU_UNMAP_DMA, value: bytes unmapped
 *   w slot iova                              the device writes 4 bytes, value: where they landed
 *
 * Slots are numbers of our own for descriptors. Our memory lies at MEMORY, and nothing after it.
 * The device must be QEMU's `edu`: its DMA engine writes zeros from a buffer that nobody fills.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 32
#define MEMORY 0x200000000ull
#define MEMORY_BYTES (8 * 4096)
#define NOWHERE (-1)
#define STUCK (-2)
#define UNREADABLE ((void *)8)

/* edu, docs/specs/edu.txt */
#define EDU_BYTES 0x1000
#define EDU_SOURCE 0x80
#define EDU_TARGET 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_BUFFER 0x40000
#define EDU_RUN 1
#define EDU_TO_MEMORY 2

static int files[SLOTS];
static volatile uint8_t *registers[SLOTS];
static uint32_t *const memory = (uint32_t *)MEMORY;

static int file(long slot)
{
	return slot >= 0 && slot < SLOTS ? files[slot] : -1;
}

static long keep(long slot, int descriptor)
{
	if (descriptor < 0)
		return -1;
	files[slot] = descriptor;
	return 0;
}

static int shut(long slot)
{
	int descriptor = file(slot);

	if (registers[slot])
		munmap((void *)registers[slot], EDU_BYTES); /* a mapping holds the file, too */
	registers[slot] = NULL;
	files[slot] = -1;
	return close(descriptor);
}

/* Devices first, then groups, then containers: the harness numbers them upwards. */
static void reset(void)
{
	for (long slot = SLOTS - 1; slot >= 0; slot--)
		if (files[slot] >= 0)
			shut(slot);
}

static int open_group(const char *function)
{
	char link[128], target[128], path[64];
	ssize_t length;

	snprintf(link, sizeof link, "/sys/bus/pci/devices/%s/iommu_group", function);
	length = readlink(link, target, sizeof target - 1);
	if (length < 0)
		return -1;
	target[length] = 0;
	snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(target, '/') + 1);
	return open(path, O_RDWR);
}

/* Map the registers and let the device start requests of its own. */
static void prepare(long slot)
{
	struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
	struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
	int descriptor = files[slot];
	uint16_t command = 0;
	void *mapped;

	if (ioctl(descriptor, VFIO_DEVICE_GET_REGION_INFO, &bar) || bar.size < EDU_BYTES)
		return;
	mapped = mmap(NULL, EDU_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, bar.offset);
	registers[slot] = mapped == MAP_FAILED ? NULL : mapped;
	if (ioctl(descriptor, VFIO_DEVICE_GET_REGION_INFO, &config))
		return;
	if (pread(descriptor, &command, 2, config.offset + 4) != 2)
		return;
	command |= 0x6; /* memory space, bus master */
	if (pwrite(descriptor, &command, 2, config.offset + 4) != 2)
		registers[slot] = NULL;
}

static void put(long slot, int offset, uint64_t value)
{
	*(volatile uint64_t *)(registers[slot] + offset) = value;
}

static long long device_writes(long slot, uint64_t iova)
{
	const struct timespec pause = {0, 2000000};

	if (file(slot) < 0 || !registers[slot]) {
		errno = EBADF;
		return -1;
	}
	for (size_t at = 0; at < MEMORY_BYTES / 4; at++)
		memory[at] = 0x5a5a5a5a;
	put(slot, EDU_SOURCE, EDU_BUFFER);
	put(slot, EDU_TARGET, iova);
	put(slot, EDU_COUNT, 4);
	put(slot, EDU_COMMAND, EDU_RUN | EDU_TO_MEMORY);
	for (int wait = 0; *(volatile uint64_t *)(registers[slot] + EDU_COMMAND) & EDU_RUN; wait++) {
		if (wait > 2000)
			return STUCK;
		nanosleep(&pause, NULL);
	}
	for (size_t at = 0; at < MEMORY_BYTES / 4; at++)
		if (!memory[at])
			return MEMORY + at * 4;
	errno = 0;
	return NOWHERE;
}

static long long one(char kind, long slot, char *rest)
{
	unsigned long long n[6] = {0};
	char name[64] = "";
	int number;

	for (int at = 0; at < 6 && kind != 'g' && kind != 'd'; at++)
		n[at] = strtoull(rest, &rest, 0);
	switch (kind) {
	case 'o':
		return keep(slot, open("/dev/vfio/vfio", O_RDWR));
	case 'g':
		sscanf(rest, "%63s", name);
		return keep(slot, open_group(name));
	case 'x':
		return shut(slot);
	case 's': {
		struct vfio_group_status status = {.argsz = n[0]};
		int result = ioctl(file(slot), VFIO_GROUP_GET_STATUS, &status);
		return result ? result : (long long)status.flags;
	}
	case 'j':
		number = file((long long)n[0]);
		if (number < 0)
			number = 999;
		return ioctl(file(slot), VFIO_GROUP_SET_CONTAINER, &number);
	case 'l':
		return ioctl(file(slot), VFIO_GROUP_UNSET_CONTAINER);
	case 'd': {
		long group;
		sscanf(rest, "%ld %63s", &group, name);
		long result = keep(slot, ioctl(file(group), VFIO_GROUP_GET_DEVICE_FD, name));
		if (!result)
			prepare(slot);
		return result;
	}
	case 'e':
		return ioctl(file(slot), VFIO_CHECK_EXTENSION, n[0]);
	case 'i':
		return ioctl(file(slot), VFIO_SET_IOMMU, n[0]);
	case 'q': {
		struct vfio_iommu_type1_info info = {.argsz = n[0]};
		return ioctl(file(slot), VFIO_IOMMU_GET_INFO, &info);
	}
	case 'm': {
		struct vfio_iommu_type1_dma_map map = {
			.argsz = n[0], .flags = n[1], .vaddr = n[2], .iova = n[3], .size = n[4]};
		return ioctl(file(slot), VFIO_IOMMU_MAP_DMA, n[5] ? &map : UNREADABLE);
	}
	case 'u': {
		/* With room for a bitmap, so that a request for one is judged by its merits. */
		struct {
			struct vfio_iommu_type1_dma_unmap head;
			struct vfio_bitmap bitmap;
		} unmap = {{.argsz = n[0], .flags = n[1], .iova = n[2], .size = n[3]}, {4096, 8, 0}};
		int result = ioctl(file(slot), VFIO_IOMMU_UNMAP_DMA, n[4] ? (void *)&unmap : UNREADABLE);
		return result ? result : (long long)unmap.head.size;
	}
	case 'w':
		return device_writes(slot, n[0]);
	}
	errno = ENOSYS;
	return -1;
}

int main(void)
{
	char line[256];

	for (int slot = 0; slot < SLOTS; slot++)
		files[slot] = -1;
	if (mmap(memory, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0) == MAP_FAILED)
		return 1;
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'S') {
			reset();
			continue;
		}
		char *rest = line + 1;
		long slot = strtol(rest, &rest, 0);
		errno = 0;
		long long value = one(line[0], slot, rest);
		printf("%lld %d\n", value, value < 0 ? errno : 0);
	}
	reset();
	return 0;
}
