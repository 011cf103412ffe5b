package translate

import (
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"windrose.dev/windrose/internal/object"
)

// classAnnotation names the class of an Ingress; it is older than
// spec.ingressClassName and still in use.
const classAnnotation = "kubernetes.io/ingress.class"

// foreignDomains are where other controllers have the annotations by which
// they let an Ingress say more. A domain stands for those below it too.
var foreignDomains = []string{
	"alb.ingress.kubernetes.io",
	"appgw.ingress.kubernetes.io",
	"haproxy-ingress.github.io",
	"haproxy.com",
	"haproxy.org",
	"higress.io",
	"ingress.appscode.com",
	"ingress.cilium.io",
	"ingress.kubernetes.io",
	"k8s.apisix.apache.org",
	"konghq.com",
	"networking.gke.io",
	"nginx.com",
	"nginx.ingress.kubernetes.io",
	"nginx.org",
	"projectcontour.io",
	"traefik.io",
}

// ownDomain is that of windrose's own annotations.
const ownDomain = "windrose.dev/"

// unknownAnnotations tells the author of an object which annotations look like
// windrose's and are not.
func unknownAnnotations(annotations map[string]string, known string, find func(severity object.Severity, field, reason, message, mend string)) {
	if len(annotations) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(name, ownDomain) && name != known {
			mend := "remove it"
			if near := object.Nearest(name, slices.Values([]string{known})); near != "" {
				mend = `did you mean "` + near + `"?`
			}
			find(object.Warning, "metadata.annotations["+name+"]", reasonNotRead, "windrose knows no annotation "+name+" here, so that it has no effect", mend)
		}
	}
}

// annotations tells the author of an Ingress which annotations have no effect.
func (c *compiler) annotations(o *networkingv1.Ingress) {
	for _, name := range slices.Sorted(maps.Keys(o.Annotations)) {
		domain, _, ok := strings.Cut(name, "/")
		if !ok || name == classAnnotation {
			continue
		}
		field := "metadata.annotations[" + name + "]"
		if foreign(domain) {
			c.find(object.Warning, field, reasonNotRead, "windrose does not read annotation "+name+": what it asks for does not happen", "write an HTTPRoute instead, or remove the annotation")
		}
	}
}

func foreign(domain string) bool {
	return slices.ContainsFunc(foreignDomains, func(known string) bool {
		return domain == known || strings.HasSuffix(domain, "."+known)
	})
}
