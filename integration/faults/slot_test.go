package faults

import "testing"

// hashSlots is how many slots a Redis Cluster has.
const hashSlots = 16384

// slotOf is the slot of a session: that of its tag, with which its handle begins.
func slotOf(handle string) int { return slotOfTag(handle[:min(4, len(handle))]) }

// slotOfTag is the slot of all keys with a hash tag: its CRC16 (XMODEM).
func slotOfTag(tag string) int {
	crc := uint16(0)
	for _, c := range []byte(tag) {
		crc ^= uint16(c) << 8
		for range 8 {
			high := crc & 0x8000
			if crc <<= 1; high != 0 {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % hashSlots
}

func TestASlotIsTheOneThatCLUSTERKEYSLOTNames(t *testing.T) {
	for handle, want := range map[string]int{"1234-locator...": 6025, "AbC--locator...": 115, "zz_9-locator...": 3308} {
		if got := slotOf(handle); got != want {
			t.Errorf("slot of session %s: %d, want %d", handle, got, want)
		}
	}
}
