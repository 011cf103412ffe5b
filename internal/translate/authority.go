package translate

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"

	"windrose.dev/windrose/internal/object"
)

// authority is what came of a reference to CA certificates: the certificates, or
// why there are none.
type authority struct {
	pem     string
	why     string
	mend    string
	unknown bool // a kind that windrose does not read
}

func (a authority) ok() bool { return a.why == "" }

// authority reads the CA certificates of a ConfigMap, or of a
// ClusterTrustBundle, which belongs to no namespace.
func (t *Translator) authority(group, kind, namespace, name string) authority {
	switch {
	case group == "" && kind == "ConfigMap":
		cm, ok := t.set.ConfigMaps.Get(namespace, name)
		if !ok {
			return authority{why: fmt.Sprintf("ConfigMap %s/%s does not exist", namespace, name), mend: object.Meant(name, namesIn(t.set.ConfigMaps, namespace))}
		}
		bundle, ok := cm.Data["ca.crt"]
		if !ok {
			return authority{why: fmt.Sprintf("ConfigMap %s/%s has no key ca.crt", namespace, name), mend: "put the certificates, as PEM, under the key ca.crt"}
		}
		return readAuthority(bundle, fmt.Sprintf("ca.crt of ConfigMap %s/%s", namespace, name))
	case group == certificatesv1.GroupName && kind == "ClusterTrustBundle" && t.carried.TrustBundles:
		b, ok := t.set.ClusterTrustBundles.Get("", name)
		if !ok {
			return authority{why: "ClusterTrustBundle " + name + " does not exist", mend: object.Meant(name, namesIn(t.set.ClusterTrustBundles, ""))}
		}
		return readAuthority(b.Spec.TrustBundle, "spec.trustBundle of ClusterTrustBundle "+name)
	}
	if group != "" {
		kind += " of group " + group
	}
	return authority{unknown: true, why: fmt.Sprintf("CA certificate %s is of kind %s, which windrose cannot read", name, kind), mend: "name a ConfigMap, or a ClusterTrustBundle of group " + certificatesv1.GroupName}
}

// readAuthority looks whether a bundle can be read, all of it: of one that is
// half broken, nobody can say whom its author believes.
func readAuthority(bundle, where string) authority {
	found := 0
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return authority{why: where + " holds a certificate that cannot be read: " + err.Error(), mend: "write the certificates as PEM"}
		}
		found++
	}
	if found == 0 {
		return authority{why: where + " holds no certificate that can be read", mend: "write the certificates as PEM"}
	}
	return authority{pem: bundle}
}
