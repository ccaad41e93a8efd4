//go:build !race

package sessiontest_test

const raced = false
