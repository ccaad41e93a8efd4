package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/ory/dockertest/v3/docker"
)

const (
	defaultImage = "redis:7"
	localImage   = "redsession-redis:local"
	labelSource  = "redsession.harness.source" // digest of the redis-server in localImage
	pullTimeout  = 20 * time.Second
)

// findImage returns the name of an image that has a redis-server on its PATH.
//
// An image that was built here before goes before the pull of the default one:
// where no registry can be reached, not every test should have to find that out.
func findImage(ctx context.Context, c *docker.Client) (string, error) {
	name := os.Getenv("REDSESSION_REDIS_IMAGE")
	asked := name != ""
	if !asked {
		name = defaultImage
	}
	if _, err := c.InspectImage(name); err == nil {
		return name, nil
	} else if !errors.Is(err, docker.ErrNoSuchImage) {
		return "", fmt.Errorf("harness: look for image %s: %w", name, err)
	}
	program, digest, noServer := installedServer(ctx)
	if !asked {
		img, err := c.InspectImage(localImage)
		if err == nil && (noServer != nil || img.Config != nil && img.Config.Labels[labelSource] == digest) {
			return localImage, nil
		}
	}
	pull := pullImage(ctx, c, name)
	if pull == nil {
		return name, nil
	}
	if asked {
		return "", fmt.Errorf("harness: image %s is not here and cannot be pulled: %w", name, pull)
	}
	if noServer != nil {
		return "", fmt.Errorf("harness: image %s cannot be pulled (%w), and none can be built without a redis-server (%w)", name, pull, noServer)
	}
	if err := buildImage(ctx, c, program, digest); err != nil {
		return "", fmt.Errorf("harness: build image %s: %w", localImage, err)
	}
	return localImage, nil
}

func pullImage(ctx context.Context, c *docker.Client, name string) error {
	repository, tag := docker.ParseRepositoryTag(name)
	if tag == "" {
		tag = "latest"
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	return c.PullImage(docker.PullImageOptions{Repository: repository, Tag: tag, OutputStream: io.Discard, Context: ctx}, docker.AuthConfiguration{})
}

// installedServer finds a redis-server of this machine that runs in a Linux
// container, and the digest of its file.
func installedServer(ctx context.Context) (path, digest string, err error) {
	if runtime.GOOS != "linux" {
		return "", "", errors.New("the programs of this system do not run in a container")
	}
	if path, err = serverProgram(ctx); err != nil {
		return "", "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", "", err
	}
	b, err := os.ReadFile(path)
	sum := sha256.Sum256(b)
	return path, hex.EncodeToString(sum[:8]), err
}

var libraryPattern = regexp.MustCompile(`(?m)(?:=>\s+|^\s*)(/\S+)\s+\(0x`)

// buildImage makes an image of an installed server and its libraries.
func buildImage(ctx context.Context, c *docker.Client, program, digest string) error {
	// The program looks at the name it is called by: it is redis-check-rdb,
	// too, and that is what a link to it may resolve to.
	files := map[string]string{"rootfs/usr/local/bin/redis-server": program}
	for _, name := range []string{"redis-cli", "valkey-cli"} {
		if cli, err := exec.LookPath(name); err == nil {
			files["rootfs/usr/local/bin/"+name] = cli
		}
	}
	for from := range maps.Values(maps.Clone(files)) {
		out, err := exec.CommandContext(ctx, "ldd", from).Output()
		if err != nil && !strings.Contains(string(out), "statically") {
			return fmt.Errorf("ldd %s: %w", from, err)
		}
		for _, m := range libraryPattern.FindAllStringSubmatch(string(out), -1) {
			files["rootfs"+m[1]] = m[1]
		}
	}
	content := map[string][]byte{
		"Dockerfile":   []byte("FROM scratch\nCOPY rootfs/ /\n"),
		"rootfs/tmp/":  nil,
		"rootfs/data/": nil,
	}
	for to, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		content[to] = b
	}
	archive, err := tarOf(content, 0o755)
	if err != nil {
		return err
	}
	var log strings.Builder
	err = c.BuildImage(docker.BuildImageOptions{
		Name:           localImage,
		Labels:         map[string]string{labelSource: digest},
		InputStream:    archive,
		OutputStream:   &log,
		RmTmpContainer: true,
		Context:        ctx,
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, &log)
	}
	return nil
}
