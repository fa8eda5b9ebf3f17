#!/bin/sh
# The chart of Karpenter's provider of fake machines (sigs.k8s.io/karpenter 1.14.1, kwok/charts), rendered with its own
# default values: it writes the variable FEATURE_GATES with gates that its values.yaml lacks (StaticCapacity,
# CapacityBuffer), so with empty values. Karpenter of the same version refuses an empty value and does not start. Who
# sets both to false gets a Karpenter that starts.
#
# Why it matters: this provider is the way to try a NodePool without a cloud, and the pod only says CrashLoopBackOff.
# Seen with Karpenter 1.14.1, helm 3.22.0. Needs Go. Ends with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
export GOPATH="$folder/go" GOCACHE="$folder/cache" GOMODCACHE="$folder/go/pkg/mod" GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0
cat >go.mod <<'MOD'
module example.com/gates
go 1.25
require (
	helm.sh/helm/v3 v3.22.0
	sigs.k8s.io/karpenter v1.14.1
)
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/karpenter/pkg/operator/options"
)

// What the chart writes into FEATURE_GATES with these values beside its own.
func gates(folder string, values map[string]any) string {
	chart, err := loader.Load(folder)
	if err != nil {
		panic(err)
	}
	all, err := chartutil.ToRenderValues(chart, values, chartutil.ReleaseOptions{Name: "karpenter"}, nil)
	if err != nil {
		panic(err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		panic(err)
	}
	for name, text := range files {
		if strings.HasSuffix(name, "deployment.yaml") {
			return regexp.MustCompile(`FEATURE_GATES\s+value: "([^"]*)"`).FindStringSubmatch(text)[1]
		}
	}
	panic("no deployment")
}

func main() {
	image := map[string]any{"image": map[string]any{"repository": "example.com/karpenter", "tag": "1"}}
	plain := gates(os.Args[1], map[string]any{"controller": image})
	_, refused := options.ParseFeatureGates(plain)
	named := map[string]any{"featureGates": map[string]any{"staticCapacity": false, "capacityBuffer": false}}
	whole := gates(os.Args[1], map[string]any{"controller": image, "settings": named})
	_, also := options.ParseFeatureGates(whole)
	fmt.Printf("karpenter 1.14.1\ndefault values: FEATURE_GATES=%s\n  Karpenter: %v\nboth set:       FEATURE_GATES=%s\n  Karpenter: %v\n", plain, refused, whole, also)
	if refused != nil && also == nil {
		fmt.Println("as seen before")
		return
	}
	fmt.Println("this has changed")
	os.Exit(1)
}
GO
go mod download sigs.k8s.io/karpenter@v1.14.1
go build -o gates .
./gates "$(go list -m -f '{{.Dir}}' sigs.k8s.io/karpenter)/kwok/charts"
