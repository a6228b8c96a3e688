// Memory for torch's tensors on the CPU that leaves no holes between those that layers keep.
//
// torch asks the C library for aligned memory. glibc before 2.38 can't give a freed aligned block to a request of the
// same size: it looks for room to align in as well. So every temporary tensor of a forward pass takes fresh memory
// behind what the layer before it kept, and a run holds twice what it uses. Here one range of addresses is reserved,
// and a request takes the smallest free span that fits; neighbours that are free are one span.
//
// What is freed stays with the process, and is used again without asking the system for pages, until
// `sapwood_heap_release`.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

namespace {

using Byte = char;

constexpr size_t LEAST = size_t(128) << 10;  // bytes: what is smaller is the C library's
constexpr size_t GROWTH = size_t(16) << 20;
constexpr size_t RESERVED = 4;  // times the machine's memory: addresses, not memory

size_t whole_pages(size_t size) {
    static const size_t page = size_t(sysconf(_SC_PAGESIZE));
    return (size + page - 1) / page * page;
}

class Heap {
  public:
    bool reserve() {
        const size_t size = whole_pages(RESERVED * size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)));
        void* found = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) return false;
        start_ = top_ = static_cast<Byte*>(found);
        end_ = start_ + size;
        return true;
    }

    bool owns(const void* at) const { return at >= start_ && at < end_; }

    // nullptr where the system has no more.
    Byte* take(size_t size) {
        std::lock_guard<std::mutex> guard(lock);
        size = whole_pages(size);
        auto found = by_size_.lower_bound({size, nullptr});
        if (found == by_size_.end()) {
            if (!grow(size)) return nullptr;
            found = by_size_.lower_bound({size, nullptr});
        }
        const auto [whole, at] = *found;
        remove(at, whole);
        if (whole > size) add(at + size, whole - size);
        used_[at] = size;
        in_use_ += size;
        return at;
    }

    void give(Byte* at) {
        std::lock_guard<std::mutex> guard(lock);
        const auto found = used_.find(at);
        in_use_ -= found->second;
        join(at, found->second);
        used_.erase(found);
    }

    // Free spans keep their addresses, and no memory.
    void release() {
        std::lock_guard<std::mutex> guard(lock);
        for (const auto& [at, size] : by_address_) madvise(at, size, MADV_DONTNEED);
    }

    size_t held() const { return size_t(top_ - start_); }
    size_t in_use() const { return in_use_; }

    std::mutex lock;

  private:
    bool grow(size_t size) {
        size_t more = std::max(size, GROWTH);
        const bool last_is_free = !by_address_.empty() &&
            std::prev(by_address_.end())->first + std::prev(by_address_.end())->second == top_;
        if (last_is_free) more = std::max(size - std::prev(by_address_.end())->second, GROWTH);
        if (more > size_t(end_ - top_) || mprotect(top_, more, PROT_READ | PROT_WRITE)) return false;
        top_ += more;
        join(top_ - more, more);
        return true;
    }

    void join(Byte* at, size_t size) {
        const auto next = by_address_.lower_bound(at);
        if (next != by_address_.begin()) {
            const auto [before, length] = *std::prev(next);
            if (before + length == at) {
                remove(before, length);
                at = before;
                size += length;
            }
        }
        if (next != by_address_.end() && at + size == next->first) {
            const auto [after, length] = *next;
            remove(after, length);
            size += length;
        }
        add(at, size);
    }

    void add(Byte* at, size_t size) {
        by_address_[at] = size;
        by_size_.insert({size, at});
    }

    void remove(Byte* at, size_t size) {
        by_address_.erase(at);
        by_size_.erase({size, at});
    }

    Byte *start_ = nullptr, *top_ = nullptr, *end_ = nullptr;  // reserved; accessible below top
    size_t in_use_ = 0;
    std::map<Byte*, size_t> by_address_;           // free spans, none beside another
    std::set<std::pair<size_t, Byte*>> by_size_;   // the same
    std::unordered_map<Byte*, size_t> used_;
};

Heap& heap() {  // never destroyed: tensors may outlive whatever runs at exit
    static Heap* const one = new Heap;
    return *one;
}

at::Allocator* usual() {
    static at::Allocator* const before = c10::GetDefaultCPUAllocator();
    return before;
}

void give(void* at) {
    if (heap().owns(at)) {
        heap().give(static_cast<Byte*>(at));
    } else {
        usual()->raw_deleter()(at);
    }
}

struct HeapAllocator final : at::Allocator {
    at::DataPtr allocate(size_t size) override {
        Byte* at = size < LEAST ? nullptr : heap().take(size);
        if (at == nullptr) return usual()->allocate(size);  // which says so where memory ran out
        return {at, at, &give, at::Device(at::DeviceType::CPU)};
    }
    at::DeleterFnPtr raw_deleter() const override { return &give; }
    void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};

}  // namespace

extern "C" {

// From now on, tensors on the CPU come from here. 0 where no range of addresses is to be had.
int sapwood_heap_use() {
    if (!heap().reserve()) return 0;
    pthread_atfork([] { heap().lock.lock(); }, [] { heap().lock.unlock(); }, [] { heap().lock.unlock(); });
    c10::SetCPUAllocator(new HeapAllocator, 1);
    return 1;
}

void sapwood_heap_release() { heap().release(); }

// Bytes that were made accessible, and those of them that tensors occupy.
void sapwood_heap_facts(int64_t* held, int64_t* in_use) {
    *held = int64_t(heap().held());
    *in_use = int64_t(heap().in_use());
}
}
