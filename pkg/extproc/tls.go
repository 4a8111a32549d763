package extproc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"

	selfSignedYears  = 10
	clockSkew        = time.Hour
	certificateCheck = time.Second // least time between two looks at the files
)

// SelfSigned is a TLS configuration with a certificate made in memory, which nobody can verify: gateways of the family
// encrypt the way to the picker and do not check it. It is new with every process and valid for ten years.
func SelfSigned(now time.Time) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for a self-signed certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number for a self-signed certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Pilotfish"}, CommonName: "epp"},
		DNSNames:     []string{"localhost", "epp"},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.AddDate(selfSignedYears, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return configOf(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}), nil
}

// FromFiles is a TLS configuration with the certificate and key in tls.crt and tls.key of folder. Handshakes after a
// change of the files get the new certificate; files that can't be read keep the last good one and are logged. now is
// the clock: nil for time.Now.
func FromFiles(folder string, now func() time.Time, logger *slog.Logger) (*tls.Config, error) {
	if now == nil {
		now = time.Now
	}
	if logger == nil {
		logger = slog.Default()
	}
	c := &certificate{folder: folder, now: now, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.checked = now()
	return configOf(&tls.Config{GetCertificate: c.get}), nil
}

func configOf(c *tls.Config) *tls.Config {
	c.MinVersion = tls.VersionTLS12
	c.NextProtos = []string{"h2"}
	return c
}

// certificate is a pair of files and what was last read from them. Looking at the files when a connection comes needs
// no watcher, and works with every way in which files are replaced.
type certificate struct {
	folder string
	now    func() time.Time
	logger *slog.Logger

	mu      sync.Mutex
	checked time.Time
	seen    [2]fileMark
	current *tls.Certificate
}

type fileMark struct {
	changed time.Time
	size    int64
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= certificateCheck {
		c.checked = now
		if c.marks() != c.seen {
			if err := c.load(); err != nil {
				c.logger.Error("the last good TLS certificate stays in use", "error", err)
			} else {
				c.logger.Info("TLS certificate reloaded", "folder", c.folder)
			}
		}
	}
	return c.current, nil
}

func (c *certificate) load() error {
	seen := c.marks()
	c.seen = seen // a bad pair is reported once
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.folder, certificateFile), filepath.Join(c.folder, keyFile))
	if err != nil {
		return fmt.Errorf("reading %s and %s in %s: %w", certificateFile, keyFile, c.folder, err)
	}
	c.current = &pair
	return nil
}

// marks tells the files' states apart; a file that is missing has none.
func (c *certificate) marks() (m [2]fileMark) {
	for i, name := range []string{certificateFile, keyFile} {
		if info, err := os.Stat(filepath.Join(c.folder, name)); err == nil {
			m[i] = fileMark{info.ModTime(), info.Size()}
		}
	}
	return m
}
