//go:build tools

// Package kubernetes names what `cargo xtask test cluster` builds, so that go.mod and go.sum cover it.
package kubernetes

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
